"use strict";
// The prompt sets of the page as a reviewer meets them: their labels and images, and their answers as CSV.
(() => {
  const { csv, data } = beamclip;
  const NONE = "__none__";
  const COLUMNS = ["image_id", "uri", "prompt_set", "shown", "labels", "reviewer", "reviewed_at", "lead_time", "comment", "sha256"];
  const review = JSON.parse(document.getElementById("review-data").textContent);
  const imageKey = (id, uri) => JSON.stringify([id, uri]);
  const same = (a, b) => a.length === b.length && [...a].sort().every((label, place) => label === [...b].sort()[place]);

  const makeSet = ({ tag, anchor, multi, labels, order }) => {
    const byId = new Map(labels.map(([id, name, parent, group, ...synonyms]) => [id, { id, name, parent, group: group === 1, synonyms }]));
    // An answer in every single-label set, also in one without such a class: none of the labels fits.
    if (!multi) byId.set(NONE, { id: NONE, name: "none of these", parent: null, group: false, synonyms: [] });
    const pathOf = (label) => label && label.parent ? [...pathOf(byId.get(label.parent)), label.parent] : [];
    for (const label of byId.values()) label.above = pathOf(label);
    const byImage = new Map(), byTile = new Map();
    for (const [name, one] of Object.entries(data)) {
      if (!name.startsWith(`${anchor}-`)) continue;
      const image = imageKey(one.id, one.uri);
      if (!byImage.has(image)) byImage.set(image, { image, id: one.id, uri: one.uri, sha256: one.sha256 || "", shown: one.shown, top: one.top, tiles: [] });
      byImage.get(image).tiles.push(name);
      byTile.set(name, byImage.get(image));
    }
    return { tag, anchor, multi, labels: byId, byImage, byTile, items: order.map((name) => byTile.get(name)) };
  };

  const sets = review.sets.map(makeSet);
  const book = beamclip.makeBook(review.run, sets.map((set) => set.tag));
  const word = (id) => id === NONE ? "none of these" : id;
  const words = (set, ids) => ids.length ? ids.map(word).join(", ") : set.multi ? "none of them" : "no label";

  // The answer to an image as the run has it now: one that was given to an earlier picture is none.
  const answerTo = (set, item) => {
    const answer = book.get(set.tag, item.image);
    return answer && answer.sha256 && item.sha256 && answer.sha256 !== item.sha256 ? undefined : answer;
  };
  // What became of an image: agreed, changed, given (no label was shown), skipped, or nothing yet.
  const stateOf = (set, item) => {
    const answer = answerTo(set, item);
    if (!answer) return "";
    if (answer.skip) return "skipped";
    if (same(answer.labels, item.shown)) return "agreed";
    return item.shown.length || set.multi ? "changed" : "given";
  };
  const count = (set) => {
    const found = { agreed: 0, changed: 0, given: 0, skipped: 0, "": 0 };
    for (const item of set.items) found[stateOf(set, item)] += 1;
    return { ...found, reviewed: found.agreed + found.changed + found.given, all: set.items.length };
  };

  // In a single-label set a cell is one label, whatever is in it; in another "-" is "none of them".
  const nothing = (set) => set.labels.has("-") ? NONE : "-";  // an id may be a dash
  const join = (set, ids) => set.multi && !ids.length ? nothing(set) : ids.join("|");
  const split = (set, cell) => {
    if (!set.multi) return set.labels.has(cell) ? [cell] : null;
    if (cell === nothing(set)) return [];
    const parts = cell.split("|"), found = new Set();
    for (let at = 0; at < parts.length;) {  // the longest label first: an id may hold a bar itself
      let end = parts.length;
      while (end > at && !set.labels.has(parts.slice(at, end).join("|"))) end -= 1;
      if (end === at) return null;
      found.add(parts.slice(at, end).join("|"));
      at = end;
    }
    return [...found];
  };

  // The answers of a set; what was skipped has none and is left out.
  const toCsv = (set) => {
    const place = new Map(set.items.map((item, number) => [item.image, number]));
    const found = book.entries(set.tag).filter(([, answer]) => !answer.skip);
    found.sort(([a], [b]) => (place.get(a) ?? Infinity) - (place.get(b) ?? Infinity));
    return csv.write([COLUMNS, ...found.map(([image, answer]) => {
      const [id, uri] = JSON.parse(image);
      return [id, uri, set.tag, join(set, answer.shown || []), join(set, answer.labels), answer.by || "", answer.at || "", answer.lead === undefined ? "" : String(answer.lead), answer.comment || "", answer.sha256 || ""];
    })]);
  };
  const answerOf = (set, shown, labels, cells) => {
    const lead = parseFloat(cells.lead_time);
    const answer = { labels, shown, by: cells.reviewer, at: cells.reviewed_at, comment: cells.comment, ...(cells.sha256 ? { sha256: cells.sha256 } : {}) };
    return Number.isFinite(lead) ? { ...answer, lead } : answer;
  };
  const readRow = (set, cells) => {
    const given = cells.labels || cells.label;
    if (!given) return { why: "without an answer" };
    const labels = split(set, given);
    if (!labels) return { why: "with a label that the set does not have" };
    const known = cells.image_id && cells.uri ? set.byImage.get(imageKey(cells.image_id, cells.uri))
      : set.items.find((item) => cells.image_id ? item.id === cells.image_id : item.uri === cells.uri);
    if (!known && !(cells.image_id && cells.uri)) return { why: "of images that the page does not show" };
    if (known && cells.sha256 && known.sha256 && cells.sha256 !== known.sha256) return { why: "to an earlier picture" };
    const image = known ? known.image : imageKey(cells.image_id, cells.uri);
    const answer = answerOf(set, known ? known.shown : split(set, cells.shown) || [], labels, cells);
    const before = known ? answerTo(set, known) : book.get(set.tag, image);
    if (before && !before.skip && (Date.parse(before.at) || 0) > (Date.parse(answer.at) || 0)) return { why: "older than the answers here" };
    if (before && !before.skip && JSON.stringify([before.labels, before.by, before.at]) === JSON.stringify([labels, answer.by, answer.at])) return { why: "that were here already" };
    return { image, answer };
  };
  // Take the answers of a CSV in; what was taken and what not, in words. Throws an Error for what is no such file.
  const fromCsv = (text) => {
    const [header, ...rows] = csv.read(text);
    const columns = (header || []).map((name) => name.trim());
    const has = (...names) => names.some((name) => columns.includes(name));
    if (!has("image_id", "uri") || !has("labels", "label")) throw new Error(`its columns are ${columns.join(", ") || "none"}; expected image_id or uri, and labels`);
    const left = new Map(), taken = new Map();
    for (const row of rows) {
      const cells = Object.fromEntries(COLUMNS.concat("label").map((name) => [name, row[columns.indexOf(name)] || ""]));
      const set = cells.prompt_set || sets.length > 1 ? sets.find((one) => one.tag === cells.prompt_set) : sets[0];
      const { why, image, answer } = set ? readRow(set, cells) : { why: "of a prompt set that the page does not show" };
      if (why) left.set(why, (left.get(why) || 0) + 1);
      else taken.set(set, (taken.get(set) || new Map()).set(image, answer));
    }
    for (const [set, answers] of taken) book.put(set.tag, [...answers]);
    const number = [...taken.values()].reduce((sum, answers) => sum + answers.size, 0);
    return [`${number} answer${number === 1 ? "" : "s"} loaded`, ...[...left].map(([why, rows]) => `left out: ${rows} ${why}`)].join("; ");
  };

  Object.assign(beamclip, { NONE, run: review.run, sets, book, word, words, answerTo, stateOf, count, toCsv, fromCsv, same });
})();
