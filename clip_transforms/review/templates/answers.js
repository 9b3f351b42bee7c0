"use strict";
// A reviewer's answers: CSV, what the browser keeps of them, and undo. Knows nothing of the page.

// RFC 4180: cells with a quote, a comma, an end of line or blanks around them are quoted; nothing else is changed.
beamclip.csv = {
  write(rows) {
    const cell = (text) => /^\s|\s$|[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    return rows.map((row) => row.map(cell).join(",") + "\r\n").join("");
  },
  // Rows of cells. Throws an Error for a quoted cell without its end.
  read(text) {
    const rows = [];
    let row = [], at = text.startsWith("\uFEFF") ? 1 : 0;
    while (at < text.length) {
      let cell = "";
      if (text[at] === '"') {
        for (at += 1; ; at += 1) {
          const end = text.indexOf('"', at);
          if (end < 0) throw new Error(`the quoted cell in row ${rows.length + 1} does not end`);
          cell += text.slice(at, end);
          at = end + 1;
          if (text[at] !== '"') break;
          cell += '"';
        }
      }
      const rest = /[^,\r\n]*/y;
      rest.lastIndex = at;
      cell += rest.exec(text)[0];
      at = rest.lastIndex;
      row.push(cell);
      if (text[at] === ",") { at += 1; if (at < text.length) continue; row.push(""); }
      if (text[at] === "\r" && text[at + 1] === "\n") at += 1;
      at += 1;
      if (row.length > 1 || row[0] !== "") rows.push(row);
      row = [];
    }
    return rows;
  },
};

// The answers to the images of one run. An answer: {labels} or {skip: true}, with shown, by, at, lead, comment.
// Each is an entry of localStorage, so that two windows with one page do not write over each other.
beamclip.makeBook = (run, tags) => {
  const PREFIX = "beamclip-review:";
  const answers = new Map(tags.map((tag) => [tag, new Map()]));  // by tag, then by image
  const past = new Map(tags.map((tag) => [tag, []]));  // by tag: lists of [image, answer before]
  const fresh = new Map(tags.map((tag) => [tag, new Set()]));  // by tag: images answered since the last download
  const book = { keeps: true, watchers: [] };  // a watcher is told a tag and the images that changed
  const stored = (tag, image) => PREFIX + JSON.stringify([run, tag, image]);
  const texts = (value) => Array.isArray(value) && value.every((one) => typeof one === "string");
  const sound = (value) => value && typeof value === "object" && (value.skip === true || texts(value.labels));

  const take = (key, text) => {  // what another window or an earlier visit wrote; [tag, image] if it was of this page
    if (!key.startsWith(PREFIX)) return null;
    try {
      const [owner, tag, image] = JSON.parse(key.slice(PREFIX.length));
      const value = text === null ? null : JSON.parse(text);
      if (owner !== run || !answers.has(tag) || typeof image !== "string") return null;
      if (value === null) answers.get(tag).delete(image);
      else if (sound(value)) answers.get(tag).set(image, value);
      return [tag, image];
    } catch { return null; }  // not ours, whatever it is: it stays where it is
  };
  const keep = (tag, image, answer) => {
    if (!book.keeps) return;
    try {
      if (answer) localStorage.setItem(stored(tag, image), JSON.stringify(answer));
      else localStorage.removeItem(stored(tag, image));
    } catch { book.keeps = false; }  // forbidden, or full
  };
  const set = (tag, image, answer) => {
    if (answer) answers.get(tag).set(image, answer);
    else answers.get(tag).delete(image);
    fresh.get(tag).add(image);
    keep(tag, image, answer);
  };
  const tell = (tag, images) => { for (const watcher of book.watchers) watcher(tag, images); };

  try {
    localStorage.setItem(`${PREFIX}probe`, "1");
    localStorage.removeItem(`${PREFIX}probe`);
    const keys = Array.from({ length: localStorage.length }, (_, place) => localStorage.key(place));
    for (const key of keys.filter(Boolean)) take(key, localStorage.getItem(key));
  } catch { book.keeps = false; }
  for (const [tag, found] of answers) {  // of earlier visits the newest answer is undone first
    const order = [...found].sort(([, a], [, b]) => (Date.parse(a.at) || 0) - (Date.parse(b.at) || 0));
    past.get(tag).push(...order.map(([image]) => [[image, null]]));
  }
  addEventListener("storage", (event) => {
    const [tag, image] = (event.key && take(event.key, event.newValue)) || [];
    if (tag) tell(tag, [image]);
  });

  book.get = (tag, image) => answers.get(tag).get(image);
  book.entries = (tag) => [...answers.get(tag)];
  book.fresh = (tag) => fresh.get(tag).size;
  book.downloaded = (tag) => { fresh.get(tag).clear(); tell(tag, []); };
  // changes: [image, answer or null] each; one undo takes all of them back.
  book.put = (tag, changes) => {
    past.get(tag).push(changes.map(([image]) => [image, book.get(tag, image) || null]));
    for (const [image, answer] of changes) set(tag, image, answer);
    tell(tag, changes.map(([image]) => image));
  };
  // Take the last change back; the images that it was about, or null where there is none.
  book.undo = (tag) => {
    const last = past.get(tag).pop();
    if (!last) return null;
    const images = last.map(([image]) => image);
    for (const [image, before] of last) set(tag, image, before);
    tell(tag, images);
    return images;
  };
  book.can = (tag) => past.get(tag).length > 0;
  // A word that is kept with the answers, such as the reviewer's name.
  const words = new Map();
  book.word = (name, value) => {
    if (value !== undefined) {
      words.set(name, value);
      try { localStorage.setItem(`beamclip-${name}`, value); } catch { /* for this visit only */ }
    }
    if (!words.has(name)) {
      try { words.set(name, localStorage.getItem(`beamclip-${name}`) || ""); } catch { words.set(name, ""); }
    }
    return words.get(name);
  };
  return book;
};
