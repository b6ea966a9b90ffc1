// The page's texts in the chosen language.

import de from "./words_de.js";
import en from "./words_en.js";

export const LANGUAGES = { en, de };
let words = en;

/** Return a text by its name, with its `{placeholders}` filled in. */
export function t(name, values = {}) {
  const text = words[name] ?? en[name] ?? name;
  return text.replace(/\{(\w+)\}/g, (all, key) => values[key] ?? "");
}

export function has(name) {
  return name in en;
}

/** Return the initial language: the one chosen last, else the browser's. */
export function firstLanguage(chosen) {
  const wanted = [chosen, ...navigator.languages].map((tag) => (tag ?? "").split("-")[0]);
  return wanted.find((tag) => tag in LANGUAGES) ?? "en";
}

/** Fill in the page's texts: `data-t` names an element's text, `data-t-label` its label, `data-t-hint` its placeholder. */
export function speak(language) {
  words = LANGUAGES[language];
  document.documentElement.lang = language;
  const fill = (attribute, put) => {
    for (const element of document.querySelectorAll(`[${attribute}]`)) put(element, t(element.getAttribute(attribute)));
  };
  fill("data-t", (element, text) => (element.textContent = text));
  fill("data-t-label", (element, text) => {
    element.setAttribute("aria-label", text);
    element.title = text;
  });
  fill("data-t-hint", (element, text) => (element.placeholder = text));
}
