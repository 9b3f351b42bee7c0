"use strict";
// A field that finds a label among all of a set by its id, name, synonyms or groups (the ARIA combobox pattern).
beamclip.makePicker = (input, list, choose) => {
  const { make, word } = beamclip;
  const MOST = 40;
  let labels = [], found = [], at = -1;
  const plain = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase().replace(/[-_\s]+/g, " ");
  const texts = (label) => [word(label.id), label.name, ...label.synonyms];
  // Whole names first, then beginnings, then words that begin so, then the rest.
  const rank = (label, wanted) => {
    const names = label.names;
    if (names.includes(wanted)) return 0;
    if (names.some((name) => name.startsWith(wanted))) return 1;
    return names.some((name) => name.includes(` ${wanted}`)) ? 2 : 3;
  };
  const search = (text) => {
    const wanted = plain(text).trim();
    if (!wanted) return labels;
    const parts = wanted.split(" ");
    return labels.filter((label) => parts.every((part) => label.hay.includes(part)))
      .map((label) => [rank(label, wanted), label]).sort(([a], [b]) => a - b).map(([, label]) => label);
  };
  const point = (place) => {
    at = place;
    [...list.querySelectorAll("[role=option]")].forEach((line, number) => {
      line.setAttribute("aria-selected", String(number === at));
      if (number === at) { input.setAttribute("aria-activedescendant", line.id); line.scrollIntoView({ block: "nearest" }); }
    });
    if (at < 0) input.removeAttribute("aria-activedescendant");
  };
  const draw = () => {
    const all = search(input.value);
    found = all.slice(0, MOST);
    const wanted = plain(input.value).trim();
    list.replaceChildren(...found.map((label, number) => {
      const line = make("li");
      line.id = `${list.id}-${number}`;
      line.setAttribute("role", "option");
      for (const group of label.above) line.append(make("span", group, "above ext"));
      line.append(make("span", word(label.id), "ext"));
      if (label.group) line.append(make("small", "group"));
      const shown = plain(word(label.id));  // beside it its name, or the synonym that was meant
      const meant = wanted && !shown.includes(wanted) && label.synonyms.find((text) => plain(text).includes(wanted));
      const other = meant || (plain(label.name) !== shown && label.name);
      if (other) line.append(make("small", other, "ext"));
      return line;
    }));
    if (!found.length) list.append(make("li", "no such label in this set", "hint"));
    if (all.length > MOST) list.append(make("li", `and ${all.length - MOST} more: type on`, "hint"));
    list.hidden = false;
    list.scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-expanded", "true");
    point(wanted && found.length ? 0 : -1);
  };
  const close = () => { list.hidden = true; input.setAttribute("aria-expanded", "false"); input.removeAttribute("aria-activedescendant"); };
  const take = (label) => { input.value = ""; close(); choose(label.id); };
  input.addEventListener("input", draw);
  input.addEventListener("focus", draw);
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.isComposing) return;  // Enter ends a word of an input method
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) draw();
      else if (found.length) point((at + (event.key === "ArrowDown" ? 1 : at < 0 ? 0 : -1) + found.length) % found.length);
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (found[at]) take(found[at]);
    } else if (event.key === "Escape") {
      event.preventDefault();
      input.value = "";
      input.dispatchEvent(new CustomEvent("leave"));
    }
  });
  list.addEventListener("mousedown", (event) => {  // before the field loses the focus
    event.preventDefault();
    const line = event.target.closest("[role=option]");
    if (line) take(found[[...list.querySelectorAll("[role=option]")].indexOf(line)]);
  });
  return {
    use(all) {
      labels = all.map((label) => ({ ...label, names: texts(label).map(plain), hay: plain([...texts(label), ...label.above].join(" \n ")) }));
      input.value = "";
      close();
    },
  };
};
