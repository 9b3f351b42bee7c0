"""File systems of object stores that answer list requests from nothing: any number of objects, in no memory."""

from __future__ import annotations

from typing import Any


class FakePages:
    """`count` objects `images/<number>.jpg` in pages as large as they are asked for; counts the pages."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.pages = 0

    def _page(self, token: str | None, size: int) -> tuple[range, str | None]:
        self.pages += 1
        start = int(token or 0)
        end = min(start + size, self.count)
        return range(start, end), str(end) if end < self.count else None


class FakeGcs(FakePages):
    """Google's objects.list, as gcsfs hands it on."""

    protocol = ("gs", "gcs")

    def call(self, method: str, path: str, bucket: str, **query: Any) -> dict[str, Any]:
        assert (method, path, bucket, query["prefix"]) == ("GET", "b/{}/o", "bucket", "images/")
        numbers, following = self._page(query["pageToken"], query["maxResults"])
        items = [{"name": f"images/{n:09d}.jpg", "size": "5", "generation": str(n)} for n in numbers]
        return {"items": items, "nextPageToken": following} if following else {"items": items}


class FakeS3(FakePages):
    """ListObjectsV2, as s3fs hands it on."""

    protocol = ("s3", "s3a")

    def call_s3(self, method: str, **query: Any) -> dict[str, Any]:
        assert (method, query["Bucket"], query["Prefix"]) == ("list_objects_v2", "bucket", "images/")
        numbers, following = self._page(query.get("ContinuationToken"), query["MaxKeys"])
        contents = [{"Key": f"images/{n:09d}.jpg", "Size": 5, "ETag": f'"{n:x}"'} for n in numbers]
        return {"Contents": contents, "IsTruncated": bool(following), "NextContinuationToken": following}
