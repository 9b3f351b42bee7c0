"use strict";
// What the sheets show of the review: a mark on every tile that has an answer, and a bar of progress for each set.
(() => {
  const { all, make, book, sets, words, answerTo, stateOf, count } = beamclip;
  const number = (value) => value.toLocaleString("en");
  const tiles = new Map(all(".tile").map((node) => [node.dataset.tile, node]));
  const frameOf = (item) => item.nodes[0].frame;
  const SHORT = { agreed: () => "✓", changed: (text) => `→ ${text}`, given: (text) => `+ ${text}`, skipped: () => "skipped" };
  const LONG = {
    agreed: (text) => `${text} confirmed`, changed: (text, shown) => `changed to ${text}, from ${shown}`,
    given: (text) => `labelled ${text}`, skipped: () => "skipped",
  };
  const answered = (set, item) => {
    const answer = answerTo(set, item);
    return words(set, (answer && answer.labels) || []);
  };
  // The answer in words, or nothing.
  const spoken = (set, item) => {
    const state = stateOf(set, item);
    return state && LONG[state](answered(set, item), words(set, item.shown));
  };
  const mark = (set, item) => {
    const state = stateOf(set, item);
    for (const tile of item.nodes) {
      const { frame, chip, name } = tile;
      tile.node.dataset.state = state;
      chip.hidden = !state;
      chip.textContent = state && SHORT[state](answered(set, item));
      frame.setAttribute("aria-label", state ? `${name}; ${spoken(set, item)}` : name);
    }
  };
  for (const set of sets) for (const item of set.byImage.values()) {
    item.nodes = item.tiles.map((name) => tiles.get(name)).map((node) => {
      const frame = node.querySelector(".frame"), chip = make("span", "", "chip ext");
      chip.setAttribute("aria-hidden", "true");
      chip.hidden = true;
      frame.append(chip);
      return { node, frame, chip, name: frame.getAttribute("aria-label") };
    });
  }

  // The bar of a set.
  const part = (set, name) => set.bar.querySelector(`.${name}`);
  const inWords = (found) => [
    `${number(found.reviewed)} of ${number(found.all)} reviewed`, found.agreed && `${number(found.agreed)} agreed`, found.changed && `${number(found.changed)} changed`,
    found.given && `${number(found.given)} newly labelled`, found.skipped && `${number(found.skipped)} skipped`,
  ].filter(Boolean).join(" · ");
  const begin = (found) => {
    if (found.all === found[""]) return `Review ${found.all === 1 ? "1 image" : `${number(found.all)} images`}`;
    if (found[""]) return `Go on: ${number(found[""])} left`;
    return found.skipped ? `Go through ${number(found.skipped)} skipped` : "Look through again";
  };
  const drawShares = (node, found) => {
    let from = 0;
    for (const state of ["agreed", "changed", "given", "skipped"]) {
      const rect = node.querySelector(`.share-${state}`), width = 100 * found[state] / Math.max(1, found.all);
      rect.setAttribute("x", String(from)); rect.setAttribute("width", String(width));
      from += width;
    }
  };
  const drawBar = (set) => {
    const found = count(set), answers = book.entries(set.tag).filter(([, answer]) => !answer.skip).length;
    part(set, "begin").firstChild.textContent = begin(found);
    part(set, "progress-words").textContent = inWords(found);
    drawShares(set.bar, found);
    const save = part(set, "save");
    save.disabled = !answers;
    save.textContent = answers ? `Download ${number(answers)} answer${answers === 1 ? "" : "s"}` : "Download answers";
    save.classList.toggle("urgent", Boolean(answers && book.fresh(set.tag)));
    const elsewhere = book.entries(set.tag).filter(([image, answer]) => !answer.skip && !set.byImage.has(image)).length;
    part(set, "elsewhere").textContent = elsewhere ? `${number(elsewhere)} more of images that this page does not show; they are in the download.` : "";
    const name = book.word("reviewer");
    part(set, "who").firstChild.textContent = name ? `Reviewer: ${name}` : "";
    part(set, "who").hidden = !name;
    part(set, "forgets").hidden = book.keeps;
  };
  for (const set of sets) {
    set.bar = document.querySelector(`.reviewing[data-set="${set.anchor}"]`);
    set.bar.hidden = !set.items.length;
    for (const item of set.byImage.values()) if (stateOf(set, item)) mark(set, item);
    drawBar(set);
  }
  book.watchers.push((tag, images) => {
    const set = sets.find((one) => one.tag === tag);
    for (const item of images.map((image) => set.byImage.get(image)).filter(Boolean)) mark(set, item);
    drawBar(set);
  });

  // Download and load. The file of a set is what `beamclip review import RUN --from report FILE` reads.
  const quoted = (text) => /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
  const say = (set, text, command) => {
    const note = part(set, "note");
    note.replaceChildren(text);
    if (command) note.append(make("code", command, "ext"));
  };
  const save = (set) => {
    const name = `reviews-${set.tag}.csv`;
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([beamclip.toCsv(set)], { type: "text/csv;charset=utf-8" }));
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    book.downloaded(set.tag);
    say(set, "Downloaded. To bring the answers into the run: ", `beamclip review import ${quoted(beamclip.run)} --set ${quoted(set.tag)} --from report ${quoted(name)}`);
  };
  const load = async (set, file) => {
    try { say(set, `${file.name}: ${beamclip.fromCsv(await file.text())}.`); }
    catch (error) { say(set, `${file.name} was not loaded: ${error.message}`); }
  };
  for (const set of sets) {
    const file = part(set, "file");
    part(set, "save").addEventListener("click", () => save(set));
    part(set, "load").addEventListener("click", () => file.click());
    file.addEventListener("change", async () => {
      if (file.files[0]) await load(set, file.files[0]);
      file.value = "";  // so that the same file can be chosen again
    });
  }
  // Where nothing is kept, what is not downloaded would be lost.
  addEventListener("beforeunload", (event) => {
    if (!book.keeps && sets.some((set) => book.fresh(set.tag))) event.preventDefault();
  });
  Object.assign(beamclip, { frameOf, spoken, drawBar, drawShares });
})();
