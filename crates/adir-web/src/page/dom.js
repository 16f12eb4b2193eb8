// Elements, texts and numbers for people.

/**
 * The element of that id.
 * @param {string} id
 * @returns {any}
 */
export const byId = (id) => {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no element ${id}`);
  return found;
};

/**
 * Makes an element. Functions among `props` (`onclick`, `disabled`, `value` ...) and known properties are set as properties, the
 * rest as attributes. Children that are strings become text, never HTML; null and false are left out.
 * @param {string} tag
 * @param {Record<string, any>} [props]
 * @param {...(Node | string | null | false)} children
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined) continue;
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== false));
  return element;
}

/** Shows or hides an element. */
export function show(element, visible) {
  element.hidden = !visible;
}

/** Sets the text of an element if it is another one, so that live regions do not repeat themselves. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Tells screen readers something that is visible elsewhere. */
export function announce(text) {
  const region = byId('live');
  region.textContent = '';
  // A region that is emptied and filled in one go may stay silent.
  setTimeout(() => setText(region, text), 50);
}

/** Puts off a call until none came for `wait` milliseconds. */
export function debounce(call, wait) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(call, wait);
  };
}

/** 3725 is "1 h 2 min". */
export function duration(seconds) {
  if (seconds < 9.95) return `${seconds < 0.095 ? '0.1' : seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return whole % 60 && minutes < 10 ? `${minutes} min ${whole % 60} s` : `${minutes} min`;
  return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${minutes / 60} h`;
}

/** 1500000 is "1.5 MB". */
export function size(bytes) {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB'];
  let [value, unit] = [bytes, 0];
  while (value >= 999.5 && unit < units.length - 1) [value, unit] = [value / 1000, unit + 1];
  return `${unit && value < 9.95 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** "1 picture", "2 pictures". */
export const count = (number, noun) => `${number} ${noun}${number === 1 ? '' : 's'}`;

/** "64 x 48 pixels", with a real times sign. */
export const pixels = ({ width, height }) => `${width} × ${height} pixels`;
