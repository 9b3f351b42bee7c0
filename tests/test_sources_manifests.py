"""CSV, TSV, JSON lines and url lists: columns, offsets, bad rows, credentials that are pointed at, carry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_transforms.elements import Failure, ImageRef, Reason, RequestError, Stage, UnitKind
from clip_transforms.sources import PlanItem, SourceOptions, image_id_of, read_unit, scan
from tests.sources_kit import plan_of, read_all, read_items, summary

SECRET = "https://host/a.jpg?w=1&X-Amz-Signature=s3cr3t"


def rows_of(path: Path, **options: Any) -> list[PlanItem]:
    return list(scan([str(path)], SourceOptions(**options)))


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_csv_columns_become_id_caption_and_extra(tmp_path: Path) -> None:
    manifest = write(
        tmp_path / "m.csv",
        'id,path,caption,stars,note\n7,img/a.jpg,"two, lines\nof text",5,\n8,/abs/b#1?.jpg,,,"q""x"\n',
    )
    first, second = rows_of(manifest)
    assert (first.uri, first.image_id, first.caption) == (f"{tmp_path}/img/a.jpg", "7", "two, lines\nof text")
    assert first.extra == '{"note":"","stars":"5"}'
    assert (second.uri, second.image_id, second.caption) == ("/abs/b#1?.jpg", "8", None)
    assert second.extra == '{"note":"q\\"x","stars":""}'
    assert (first.size, first.version, first.rows, first.pointer_file) == (None, None, 1, None)


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfuri\r\nx/a.jpg\r\n\r\nx/b.jpg",
        b"uri\nx/a.jpg\n\n\nx/b.jpg\n",
        b'"uri"\n"x/a.jpg"\n"x/b.jpg"\n',
        b"n;uri\n1;x/a.jpg\n2;x/b.jpg\n",
        b"n|uri\n1|x/a.jpg\n2|x/b.jpg\n",
        b"n\tURI \n1\tx/a.jpg\n2\tx/b.jpg\n",
        b",uri\n0,x/a.jpg\n1,x/b.jpg\n",
    ],
)
def test_marks_line_ends_and_delimiters(tmp_path: Path, data: bytes) -> None:
    wanted = [f"{tmp_path}/x/a.jpg", f"{tmp_path}/x/b.jpg"]
    assert [item.uri for item in rows_of(write(tmp_path / "m.csv", data))] == wanted


def test_laion_and_coyo_columns(tmp_path: Path) -> None:
    laion = write(tmp_path / "l.tsv", "URL\tTEXT\tWIDTH\tsimilarity\nhttp://h/a.jpg\ta cat\t5\t0.3\n")
    coyo = write(tmp_path / "c.jsonl", '{"id": 12, "url": "http://h/b", "text": "a dog", "clip": 0.5}\n')
    (first,), (second,) = rows_of(laion), rows_of(coyo)
    assert (first.uri, first.caption, first.image_id) == ("http://h/a.jpg", "a cat", None)
    assert first.extra == '{"WIDTH":"5","similarity":"0.3"}'
    assert (second.uri, second.caption, second.image_id) == ("http://h/b", "a dog", "12")
    assert second.extra == '{"clip":0.5}'


@pytest.mark.parametrize(
    ("header", "uri", "caption", "image_id"),
    [
        ("SAMPLE_ID,URL,TEXT,HEIGHT,WIDTH,LICENSE,NSFW,similarity", 1, 2, None),  # LAION-400M
        ("URL,TEXT,WIDTH,HEIGHT,similarity,hash,punsafe,pwatermark,AESTHETIC_SCORE", 0, 1, None),  # LAION-5B
        ("URL,TEXT,WIDTH,HEIGHT,similarity,LANGUAGE,hash,pwatermark,punsafe", 0, 1, None),
        (
            "id,url,text,width,height,image_phash,text_length,word_count,num_tokens_bert,num_tokens_gpt,"
            "num_faces,clip_similarity_vitb32,clip_similarity_vitl14,nsfw_score_opennsfw2,nsfw_score_gantman,"
            "watermark_score,aesthetic_score_laion_v2",  # COYO-700M
            *(1, 2, 0),
        ),
        (
            "uid,url,text,original_width,original_height,clip_b32_similarity_score,"
            "clip_l14_similarity_score,face_bboxes,sha256",  # DataComp
            *(1, 2, 0),
        ),
    ],
)
def test_columns_of_published_data_sets(
    tmp_path: Path, header: str, uri: int, caption: int, image_id: int | None
) -> None:
    names = header.split(",")
    cells = [f"v{place}" for place in range(len(names))]
    cells[uri] = "https://h/a.jpg"
    table = pa.table({name: [cell] for name, cell in zip(names, cells, strict=True)})
    pq.write_table(table, tmp_path / "t.parquet")
    text = write(tmp_path / "t.csv", f"{header}\n{','.join(cells)}\n")
    (item,) = rows_of(text)
    (row,) = read_all([tmp_path / "t.parquet"], SourceOptions())
    assert isinstance(row, ImageRef)
    for found in (item, row):
        assert (found.uri, found.caption) == ("https://h/a.jpg", cells[caption])
        assert found.extra is not None
        taken = {uri, caption, image_id}
        rest = {
            name: cell
            for place, (name, cell) in enumerate(zip(names, cells, strict=True))
            if place not in taken
        }
        assert json.loads(found.extra) == rest
    wanted = None if image_id is None else cells[image_id]
    assert item.image_id == wanted
    assert row.image_id == (wanted or image_id_of(row.uri))


@pytest.mark.parametrize(
    ("header", "wanted"),
    [("id,uid,image_id,uri", "3"), ("id,uid,x,uri", "2"), ("id,x,y,uri", "1"), ("key,x,y,uri", None)],
)
def test_which_column_is_the_id(tmp_path: Path, header: str, wanted: str | None) -> None:
    manifest = write(tmp_path / "m.csv", f"{header}\n1,2,3,a.jpg\n")
    assert rows_of(manifest)[0].image_id == wanted
    assert rows_of(manifest, id_column=header.split(",")[1])[0].image_id == "2"


def test_a_row_without_an_id_gets_the_uris_hash(tmp_path: Path) -> None:
    found = read_all([write(tmp_path / "m.csv", "id,uri\n,a.jpg\n")])
    assert found[0].image_id == image_id_of(f"{tmp_path}/a.jpg")


def test_bad_rows_are_failures_and_hide_no_other_row(tmp_path: Path) -> None:
    text = 'uri,caption\na.jpg,x\n,empty\nb.jpg\nc.jpg,1,2\n"d.jpg,never closed\ne.jpg,y\n'
    text += 'f.jpg,"z"q\n\ng.jpg,w\n'
    manifest = write(tmp_path / "m.csv", text)
    found = read_all([manifest])
    here, there = str(manifest), str(tmp_path)
    assert summary(found) == [
        (f"{there}/a.jpg", ""),
        (f"{here}#1", "bad_name"),
        (f"{there}/b.jpg", ""),
        (f"{here}#3", "bad_name"),
        (f"{here}#4", "bad_name"),
        (f"{there}/e.jpg", ""),
        (f"{here}#6", "bad_name"),
        (f"{there}/g.jpg", ""),
    ]
    failures = [row for row in found if isinstance(row, Failure)]
    assert [row.message for row in failures[:2]] == [
        "row 1 (line 3) has no value in column 'uri'",
        "row 3 (line 5) has more cells than columns",
    ]
    assert failures[2].message.startswith("row 4 (line 6) is not CSV: ")
    assert {row.stage for row in failures} == {Stage.LIST}
    assert failures[0].image_id == image_id_of(f"{here}#1")


def test_bad_json_lines_are_failures(tmp_path: Path) -> None:
    lines = [
        '{"uri": "a.jpg", "n": NaN, "m": {"b": [1, Infinity]}}',
        "{broken",
        "[1]",
        "",
        '{"uri": 5}',
        "{}",
    ]
    lines += [
        '{"uri": null, "id": "k"}',
        '{"uri": "b.jpg", "new": true}',
        '{"uri": "a' + "\\u0000" + '.jpg"}',
    ]
    manifest = write(tmp_path / "m.jsonl", "\n".join(lines))
    found = read_all([manifest])
    assert summary(found) == [
        (f"{tmp_path}/a.jpg", ""),
        *((f"{manifest}#{row}", "bad_name") for row in (1, 2, 3, 4, 5)),
        (f"{tmp_path}/b.jpg", ""),
        (f"{manifest}#7", "bad_name"),
    ]
    assert isinstance(found[0], ImageRef)
    assert found[0].extra == '{"m":{"b":[1,null]},"n":null}'
    assert found[1].image_id == image_id_of(f"{manifest}#1")
    assert found[5].image_id == "k"
    assert isinstance(found[1], Failure)
    assert found[1].message.startswith("row 1 (line 2) is not JSON: ")


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.csv", b"uri,caption\na.jpg,caf\xe9\nb\xff.jpg,x\n")
    good, bad = rows_of(manifest)
    assert good.caption == "caf\\xe9"
    assert (bad.problem_reason, bad.uri) == ("bad_name", f"{manifest}#1")
    assert bad.problem_message == "row 1 (line 3) has a name that is not UTF-8: b\\xff.jpg"


def test_url_lists(tmp_path: Path) -> None:
    listing = write(
        tmp_path / "urls.txt", "https://h/a.jpg \r\n\r\n  \nb#c.jpg\n# d.jpg\ndata:image/png;base64,AA\n"
    )
    items = rows_of(listing)
    assert [item.uri for item in items] == [
        *("https://h/a.jpg", f"{tmp_path}/b#c.jpg", f"{tmp_path}/# d.jpg", f"{listing}#3"),
    ]
    assert items[3].problem_reason == "bad_name"
    assert [item.uri for item in rows_of(listing, format="urls")] == [item.uri for item in items]


def test_credentials_are_pointed_at_and_never_copied(tmp_path: Path) -> None:
    signed = [SECRET, "https://me:s3cr3t@host/b.jpg", "https://host/c.jpg?sig=s3cr3t&sv=1"]
    quoted = '"a note\nover two lines with\n' + signed[0] + '"'
    csv_file = write(
        tmp_path / "m.csv",
        f"note,uri,thumb\r\nplain,d.jpg,x\r\n{quoted},{signed[0]},{signed[1]}\r\nx,{signed[1]},y\r\n",
    )
    lines = [json.dumps({"uri": url, "more": {"u": [url]}, "é": 1}, ensure_ascii=False) for url in signed]
    json_file = write(tmp_path / "m.jsonl", "\ufeff" + "\n\n".join(lines))
    text_file = write(tmp_path / "m.txt", "\n".join(signed))
    for manifest, urls in ((csv_file, signed[:2]), (json_file, signed), (text_file, signed)):
        items = [item for item in rows_of(manifest) if item.pointer_file]
        assert [item.pointer_file for item in items] == [str(manifest)] * len(urls)
        data = manifest.read_bytes()
        for item, url in zip(items, urls, strict=True):
            assert url.encode() in data[item.pointer_offset :]
        assert "s3cr3t" not in repr(items)
        found = read_items(items[::-1], SourceOptions())
        assert [row.url for row in found if isinstance(row, ImageRef)] == urls[::-1]
        assert [row.uri for row in found] == [item.uri for item in items[::-1]]
    assert rows_of(csv_file)[1].extra == json.dumps(
        {"note": "a note\nover two lines with\nhttps://host/a.jpg?w=1", "thumb": "https://host/b.jpg"},
        separators=(",", ":"),
    )


def test_a_pointer_into_a_manifest_that_changed_or_vanished_is_a_failure(tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.csv", f"uri\n{SECRET}\n{SECRET}&v=2\n")
    table = plan_of(rows_of(manifest))
    options = SourceOptions()
    manifest.write_text(f"uri\nhttps://host/other.jpg?sig=1\n{SECRET}&v=2\n")
    first, _ = read_unit(UnitKind.REFS, table, options)
    assert isinstance(first, Failure)
    assert (first.reason, first.uri) == (Reason.NOT_FOUND, "https://host/a.jpg?w=1")
    manifest.unlink()
    gone = list(read_unit(UnitKind.REFS, table, options))
    assert [row.reason for row in gone if isinstance(row, Failure)] == [Reason.NOT_FOUND] * 2
    assert "s3cr3t" not in repr(gone)


def test_carry_gives_typed_values_and_leaves_extra(tmp_path: Path) -> None:
    manifest = write(
        tmp_path / "m.csv", "uri,stars,ok,when,name,caption\na.jpg, 5,true,2024-05-06,x,hello\nb.jpg,,,,,\n"
    )
    carry = (("stars", "int64"), ("ok", "bool"), ("when", "date32"), ("caption", "string"), ("uri", "string"))
    first, second = read_all([manifest], SourceOptions(carry=carry))
    assert isinstance(first, ImageRef)
    assert isinstance(second, ImageRef)
    assert [str(value) for value in first.carry] == ["5", "True", "2024-05-06", "hello", f"{tmp_path}/a.jpg"]
    assert first.carry[0] == 5
    assert (first.caption, first.extra) == ("hello", '{"name":"x"}')
    assert second.carry == (None, None, None, "", f"{tmp_path}/b.jpg")


def test_carrying_the_url_column_does_not_carry_its_credentials(tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.csv", f"uri\n{SECRET}\n")
    (row,) = read_all([manifest], SourceOptions(carry=(("uri", "string"),)))
    assert isinstance(row, ImageRef)
    assert (row.carry, row.extra, row.url) == (("https://host/a.jpg?w=1",), None, SECRET)


@pytest.mark.parametrize(
    ("kind", "cell"), [("int64", "1.5"), ("int8", "300"), ("bool", "maybe"), ("float32", "x")]
)
def test_a_carried_value_that_does_not_convert_is_an_error(tmp_path: Path, kind: str, cell: str) -> None:
    manifest = write(tmp_path / "m.csv", f"uri,n\na.jpg,1\nb.jpg,{cell}\n")
    with pytest.raises(RequestError, match=rf"m\.csv, row 1 \(line 3\): column 'n': '{cell}' is not"):
        rows_of(manifest, carry=(("n", kind),))


@pytest.mark.parametrize(
    ("name", "data", "options", "message"),
    [
        ("m.csv", b"", {}, "m.csv is empty"),
        ("m.csv", b"\xef\xbb\xbf\n", {}, "m.csv is empty"),
        ("m.jsonl", b"\n\n", {}, "m.jsonl is empty"),
        ("m.txt", b" \n", {}, "m.txt is empty"),
        ("m.csv", b"a,b\n1,2\n", {}, "looked for uri, url, path, image_path, image_uri"),
        ("m.csv", b"a,b\n1,2\n", {}, "found a, b. Name it with --image-column"),
        ("m.csv", b"uri\n", {}, "the tables have no rows"),
        (
            "m.csv",
            b"url,path\n1,2\n",
            {},
            "several columns for the same thing (url, path); choose with --image-column",
        ),
        ("m.csv", b"uri,text,caption\n1,2,3\n", {}, "choose with --caption-column"),
        ("m.csv", b"uri,a,a\n1,2,3\n", {}, "columns of the same name: a"),
        ("m.csv", b"uri\n1\n", {"id_column": "uid"}, "--id-column uid: --input"),
        ("m.csv", b"uri\n1\n", {"caption_column": "c"}, "--caption-column c"),
        ("m.csv", b"uri\n1\n", {"image_column": "c"}, "--image-column c"),
        ("m.csv", b"uri\n1\n", {"carry": (("n", "int64"),)}, "--carry n"),
        ("m.csv", "uri\n1\n".encode("utf-16"), {}, "is UTF-16"),
        ("m.csv", b"https://host/a?sig=s3cr3t\n", {}, "found https://host/a."),
        ("m.jsonl", b"[1]\n{broken\n", {}, "hold no JSON object"),
        ("m.jsonl", b'{"a": 1}\n', {}, "found a."),
        ("m.txt", b"a.jpg\n", {"id_column": "uid"}, "is a list of urls and has no column 'uid'"),
        ("m.dat", b"a.jpg\n", {"format": "manifest"}, "the suffix '.dat' does not tell"),
    ],
)
def test_an_unusable_manifest_is_an_error_at_once(
    tmp_path: Path, name: str, data: bytes, options: dict[str, Any], message: str
) -> None:
    write(tmp_path / name, data)
    with pytest.raises(RequestError) as caught:
        scan([str(tmp_path / name)], SourceOptions(**options))
    assert message in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_image_column_chooses_among_several(tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.csv", "url,path\nhttp://h/1,a.jpg\n")
    (item,) = rows_of(manifest, image_column="path")
    assert (item.uri, item.extra) == (f"{tmp_path}/a.jpg", '{"url":"http://h/1"}')


def test_a_manifest_in_memory_with_many_rows_is_read_with_its_offsets(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    lines = [f"https://host/{row}.jpg?sig={'s' * (row % 50)}x" for row in range(3_000)]
    fs.pipe_file("/sets/m.csv", ("uri\n" + "\n".join(lines)).encode())
    fs.pipe_file("/sets/rel.jsonl", b'{"path": "img/a.jpg"}')
    try:
        items = list(scan(["memory://sets/m.csv"], SourceOptions()))
        assert [item.uri for item in items] == [f"https://host/{row}.jpg" for row in range(3_000)]
        found = read_items(items[::500], SourceOptions())
        assert [row.url for row in found if isinstance(row, ImageRef)] == lines[::500]
        assert [item.uri for item in scan(["memory://sets/rel.jsonl"], SourceOptions())] == [
            "memory://sets/img/a.jpg"
        ]
    finally:
        fs.store.clear()


def test_mixed_inputs_and_a_folder_of_manifests(tmp_path: Path) -> None:
    write(tmp_path / "x.jpg", b"1")
    (tmp_path / "sets").mkdir()
    one = write(tmp_path / "sets/1.csv", "uri\na.jpg\n")
    write(tmp_path / "sets/2.jsonl", '{"uri": "b.jpg"}')
    items = scan([str(tmp_path / "x.jpg"), str(one), "https://h/c.jpg"], SourceOptions())
    assert [item.uri for item in items] == [f"{tmp_path}/x.jpg", f"{tmp_path}/sets/a.jpg", "https://h/c.jpg"]
    folder = scan([str(tmp_path / "sets")], SourceOptions(format="manifest"))
    assert sorted(item.uri for item in folder) == [f"{tmp_path}/sets/a.jpg", f"{tmp_path}/sets/b.jpg"]
    globbed = scan([f"{tmp_path}/sets/*.csv"], SourceOptions())
    assert [item.uri for item in globbed] == [f"{tmp_path}/sets/a.jpg"]
