// How LibreChat makes numbers and switches out of the strings of its environment,
// told again in our own words: the library that evaluates expressions is its own.

// Everything that its expressions are made of; other texts are not even tried.
const EXPRESSION = /^[-+\d.\s*/%()]+$/;

// What is no expression, or comes out as anything but a number, is the fallback.
export function math(evaluate, text, fallback) {
  if (text === undefined || !EXPRESSION.test(text)) {
    return fallback;
  }
  try {
    const value = evaluate(text);
    return typeof value === 'number' ? value : fallback;
  } catch {
    return fallback;
  }
}

export const isEnabled = (text) => text?.toLowerCase().trim() === 'true';

// JSON has no word for what is no finite number, and no negative zero.
export const exact = (number) => (Object.is(number, -0) ? '-0' : String(number));
