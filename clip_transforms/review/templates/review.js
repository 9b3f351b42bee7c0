"use strict";
// The review: each image in the dialog with its choices; the keys that answer, undo and go on.
(() => {
  const { all, make, bar, NONE, sets, book, detail, word, answerTo, stateOf, count, frameOf, spoken, typing } = beamclip;
  const { dialog } = detail;
  const panel = dialog.querySelector(".answering"), guesses = dialog.querySelector(".guesses");
  const comment = document.getElementById("comment"), pick = document.getElementById("pick");
  const drafts = new Map();  // by set and image: labels (multi-label) and comment that are not saved yet
  let now = null;  // the set and image in the dialog

  const setOf = (frame) => {
    const name = frame.closest(".tile").dataset.tile;
    const set = sets.find((one) => one.byTile.has(name));
    return set && { set, item: set.byTile.get(name), frame };
  };
  const draftKey = ({ set, item }) => `${set.tag} ${item.image}`;
  const draftOf = (at) => drafts.get(draftKey(at)) || {};
  const answerOf = ({ set, item }) => answerTo(set, item);

  // Seconds that an image was before the reader's eyes; a hidden window does not count.
  const watch = { of: null, sum: 0, since: 0 };
  const restart = (item) => Object.assign(watch, { of: item, sum: 0, since: performance.now() });
  const seconds = () => Math.round((watch.sum + (document.hidden ? 0 : performance.now() - watch.since)) / 100) / 10;
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) watch.sum += performance.now() - watch.since;
    else watch.since = performance.now();
  });
  document.addEventListener("focusin", (event) => {
    const at = !dialog.open && event.target.matches(".tile .frame") && setOf(event.target);
    if (at && watch.of !== at.item) restart(at.item);
  });

  const say = (text) => { for (const node of all(".said")) node.textContent = text; };
  const progress = (set) => { const { reviewed, all: whole } = count(set); return `${reviewed.toLocaleString("en")} of ${whole.toLocaleString("en")} reviewed`; };
  const nameOf = (item) => item.uri.split(/[/#]/).pop() || item.uri;

  // What can be chosen by digit: the guesses, what was shown or answered beyond them, the groups above the best.
  const choicesOf = (at) => {
    const { set, item } = at;
    const answer = answerOf(at);
    const scores = new Map(item.top.map(([label, ...numbers]) => [label, numbers]));
    const best = item.top.map(([label]) => set.labels.get(label)).find((label) => label && label.id !== NONE);
    const ids = new Set([...scores.keys(), ...item.shown, ...(best ? [...best.above].reverse() : []), ...((answer && answer.labels) || []), ...(draftOf(at).labels || [])]);
    ids.delete(NONE);
    const found = [...ids].map((id, place) => ({ id, key: place < 9 ? String(place + 1) : "", numbers: scores.get(id) }));
    return set.multi ? found : [...found, { id: NONE, key: "0", numbers: scores.get(NONE) }];
  };
  const chosen = (at) => draftOf(at).labels || (answerOf(at) && answerOf(at).labels) || (at.set.multi ? at.item.shown : []);
  const drawChoice = (at, { id, key, numbers }, picked) => {
    const line = make("li"), button = make("button", undefined, "choice");
    const label = at.set.labels.get(id);
    button.type = "button";
    button.dataset.label = id;
    button.setAttribute("aria-pressed", String(picked.includes(id)));
    const text = make("span", undefined, "word");
    for (const group of label ? label.above : []) text.append(make("span", group, "above ext"));
    const was = at.item.shown.includes(id);
    text.append(make("span", word(id), was ? "ext shown" : "ext"));
    if (was) text.append(make("small", "shown"));
    button.append(make("kbd", key), text);
    if (numbers) button.append(make("b", numbers[0]), make("small", `cos ${numbers[1]}`), bar(parseFloat(numbers[0]) || 0));
    line.append(button);
    return line;
  };
  const question = ({ set, item }) => {
    if (set.multi) return item.shown.length ? "Which labels are right?" : "No label was given. Is there any?";
    return item.shown.length ? `Is “${word(item.shown[0])}” right?` : "No label was given. Which is right?";
  };
  const drawPanel = () => {
    const { set, item } = now, draft = draftOf(now), answer = answerOf(now), state = stateOf(set, item);
    panel.querySelector(".question").textContent = question(now);
    const verdict = panel.querySelector(".verdict");
    verdict.dataset.state = draft.labels ? "draft" : state;
    verdict.textContent = draft.labels ? "not saved yet: Enter saves" : spoken(set, item) || "";
    const picked = chosen(now);
    guesses.replaceChildren(...choicesOf(now).map((choice) => drawChoice(now, choice, picked)));
    if (document.activeElement !== comment) comment.value = draft.comment ?? (answer && answer.comment) ?? "";
    const confirm = dialog.querySelector(".confirm");
    confirm.firstChild.textContent = set.multi ? "Save" : "Confirm";
    confirm.disabled = !set.multi && !item.shown.length;
    dialog.querySelector(".undo").disabled = !book.can(set.tag);
    beamclip.drawShares(dialog.querySelector(".done"), count(set));
  };
  const picker = beamclip.makePicker(pick, document.getElementById("pick-list"), (label) => { rest(); choose(now, label); });
  let pickerOf = null;
  detail.watchers.push((frame) => {
    now = setOf(frame) || null;
    panel.hidden = !now;
    dialog.classList.toggle("wide", Boolean(now));
    if (!now) return;
    if (watch.of !== now.item || !dialog.open) restart(now.item);
    if (pickerOf !== now.set) picker.use([...now.set.labels.values()]);
    pickerOf = now.set;
    drawPanel();
  });
  book.watchers.push(() => { if (dialog.open && now) drawPanel(); });

  // The reviewer's name, asked for once; then what was to be done is done.
  const who = document.getElementById("who"), whoName = document.getElementById("who-name");
  let pending = null;
  const askName = (then) => { pending = then; whoName.value = book.word("reviewer"); who.showModal(); whoName.select(); };
  const saveName = () => {
    const name = whoName.value.trim();
    if (!name) { whoName.focus(); return; }
    book.word("reviewer", name);
    for (const set of sets) beamclip.drawBar(set);
    const then = pending;
    who.close();
    if (then) then();
  };
  who.addEventListener("close", () => { pending = null; });
  whoName.addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.isComposing) { event.preventDefault(); saveName(); } });
  who.querySelector(".save-name").addEventListener("click", saveName);

  // Where it goes on: the next without an answer, from the start again after the last; then, if this one had been
  // skipped, the skipped ones after it.
  const goOn = (at, wasSkipped) => {
    const list = dialog.open ? detail.among : beamclip.frames(at.frame.closest(".grid"));
    const place = list.indexOf(at.frame);
    const state = (frame) => { const { set, item } = setOf(frame); return stateOf(set, item); };
    const after = list.slice(place + 1), before = list.slice(0, place);
    const next = [...after, ...before].find((frame) => state(frame) === "") || (wasSkipped && after.find((frame) => state(frame) === "skipped"));
    if (!dialog.open) { if (next) next.focus(); return; }
    if (next) { detail.open(next, list); return; }
    const open = at.set.bar.querySelector(count(at.set).skipped || count(at.set)[""] ? ".begin" : ".save");
    detail.close(list.length === at.set.items.length ? open : at.frame);
  };
  const record = (at, answer) => {
    const was = stateOf(at.set, at.item) === "skipped", text = draftOf(at).comment ?? (answerOf(at) && answerOf(at).comment);
    const whole = { ...answer, shown: at.item.shown, by: book.word("reviewer"), at: new Date().toISOString(), lead: seconds(), ...(at.item.sha256 ? { sha256: at.item.sha256 } : {}), ...(text ? { comment: text } : {}) };
    drafts.delete(draftKey(at));
    book.put(at.set.tag, [[at.item.image, whole]]);
    say(`${nameOf(at.item)}: ${spoken(at.set, at.item)}. ${progress(at.set)}`);
    goOn(at, was);
  };
  const give = (at, labels) => {
    const go = () => record(at, { labels: [...labels] });
    if (book.word("reviewer")) go();
    else askName(go);
  };
  const choose = (at, label) => {
    if (!at.set.multi) { give(at, [label]); return; }
    const picked = chosen(at);
    drafts.set(draftKey(at), { ...draftOf(at), labels: picked.includes(label) ? picked.filter((one) => one !== label) : [...picked, label] });
    drawPanel();
  };
  const confirm = (at) => {
    if (at.set.multi) give(at, chosen(at));
    else if (at.item.shown.length) give(at, at.item.shown);
    else say("No label was given: choose one, by its digit or with /");
  };
  const digit = (at, key) => {
    if (at.set.multi && !dialog.open) detail.open(at.frame);  // what is switched is to be seen
    if (at.set.multi && key === "0") { drafts.set(draftKey(at), { ...draftOf(at), labels: [] }); drawPanel(); return; }
    const choice = choicesOf(at).find((one) => one.key === key);
    if (choice) choose(at, choice.id);
    else say(`There is no choice ${key}`);
  };
  const undo = (set) => {
    const images = book.undo(set.tag);
    if (!images) { say("Nothing to undo"); return; }
    const item = set.byImage.get(images[0]);
    say(`${images.length === 1 && item ? nameOf(item) : `${images.length} answer${images.length === 1 ? "" : "s"}`}: taken back. ${progress(set)}`);
    if (!item) return;
    const frame = item.nodes.map((node) => node.frame).find((one) => !dialog.open || detail.among.includes(one)) || frameOf(item);
    if (dialog.open) detail.open(frame, detail.among.includes(frame) ? detail.among : undefined);
    else frame.focus();
  };

  // Begin at the first image without an answer, else at the first that was skipped.
  const begin = (set) => {
    const frames = set.items.map(frameOf);
    const find = (state) => frames[set.items.findIndex((item) => stateOf(set, item) === state)];
    say("");
    if (frames.length) detail.open(find("") || find("skipped") || frames[0], frames);
  };
  const keys = document.getElementById("keys");
  const rest = () => dialog.querySelector(".body").focus({ preventScroll: true });
  const editComment = () => { if (now) drafts.set(draftKey(now), { ...draftOf(now), comment: comment.value }); };
  const commented = () => {  // an answer that was given already takes its new comment at once
    const draft = now && draftOf(now), answer = now && answerOf(now);
    if (!answer || draft.comment === undefined || draft.labels) return;
    drafts.delete(draftKey(now));
    if (draft.comment !== (answer.comment || "")) book.put(now.set.tag, [[now.item.image, { ...answer, comment: draft.comment }]]);
  };
  comment.addEventListener("input", editComment);
  comment.addEventListener("change", commented);
  for (const field of [comment, pick]) field.addEventListener("leave", rest);
  comment.addEventListener("keydown", (event) => {
    if ((event.key === "Enter" && !event.isComposing) || event.key === "Escape") { event.preventDefault(); rest(); }
  });
  const ACTIONS = {
    y: confirm, s: (at) => record(at, { skip: true }), c: () => comment.focus(), "/": () => pick.focus(), Enter: confirm, " ": (at) => record(at, { skip: true }),
  };
  const onKey = (event) => {
    const key = beamclip.keyOf(event);
    if (event.altKey || event.metaKey && key !== "z" || typing(event.target) || event.isComposing) return;
    const other = all("dialog[open]").some((one) => one !== dialog);
    if (key === "?" && (!other || keys.open)) { event.preventDefault(); if (keys.open) keys.close(); else keys.showModal(); return; }
    if (other) return;
    const focused = event.target.closest && event.target.closest(".tile .frame");
    const at = dialog.open ? now : focused && focused.offsetParent && setOf(focused);
    const back = (event.ctrlKey || event.metaKey) && key === "z" && !event.shiftKey;
    if (event.ctrlKey && !back) return;
    const set = at ? at.set : sets.find((one) => one.bar.offsetParent);
    if (set && (back || key === "u")) { event.preventDefault(); undo(set); return; }
    if (key === "r" && !dialog.open && set) { event.preventDefault(); begin(set); return; }
    if (!at) return;
    if (/^[0-9]$/.test(key)) { event.preventDefault(); if (!event.repeat) digit(at, key); return; }
    const action = ACTIONS[key];
    const native = event.target.closest("button, a, summary") && (key === "Enter" || key === " ");
    if (!action || native || !dialog.open && "c/".includes(key)) return;
    event.preventDefault();
    if (!event.repeat) action(at);
  };
  document.addEventListener("keydown", onKey);
  guesses.addEventListener("click", (event) => {
    const button = event.target.closest(".choice");
    if (button) { const label = button.dataset.label; rest(); choose(now, label); }
  });
  const click = (selector, action) => dialog.querySelector(selector).addEventListener("click", () => { if (now) { rest(); action(now); } });
  click(".confirm", confirm);
  click(".skipping", ACTIONS.s);
  click(".undo", (at) => undo(at.set));
  for (const button of all(".help")) button.addEventListener("click", () => keys.showModal());
  for (const one of [keys, who]) one.addEventListener("click", (event) => { if (event.target === one || event.target.closest(".close")) one.close(); });
  for (const set of sets) {
    set.bar.querySelector(".begin").addEventListener("click", () => begin(set));
    set.bar.querySelector(".who").addEventListener("click", () => askName(null));
  }
  addEventListener("beforeunload", (event) => { if (drafts.size) event.preventDefault(); });
})();
