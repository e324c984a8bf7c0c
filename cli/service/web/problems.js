// Problems, shown where their cause is.
import {make} from './elements.js';

export const problemText = (problem) =>
  make('div', {class: 'problem', role: 'alert'}, make('p', {}, problem.message),
       problem.hint ? make('p', {class: 'hint'}, problem.hint) : null);

// The option that a problem's sentence is about ("--target-bpw: ..."), without dashes; empty where it names none.
export const optionOf = (problem) => /(?:^|\s)--([a-z][a-z-]*)/.exec(problem.message)?.[1] ?? '';

// Removes problems from all places within `root`, and marks no field any more.
export const clearProblems = (root) => {
  for (const place of root.querySelectorAll('.problem-place')) place.replaceChildren();
  for (const field of root.querySelectorAll('[aria-invalid]')) field.removeAttribute('aria-invalid');
};

// The nearest place for problems around a field.
const placeOf = (field) => {
  for (let around = field.parentElement; around; around = around.parentElement) {
    const place = around.querySelector(':scope > .problem-place');
    if (place) return place;
  }
  return null;
};

// Shows a problem at a field, or in `otherwise` without one, and no other beside it. What is shown already stays as it is,
// so that it is not said twice.
export const showProblem = (problem, field, otherwise) => {
  const place = (field && placeOf(field)) ?? otherwise;
  for (const other of otherwise.closest('form').querySelectorAll('.problem-place')) if (other !== place) other.replaceChildren();
  field?.setAttribute('aria-invalid', 'true');
  if (place.textContent !== problem.message + problem.hint) place.replaceChildren(problemText(problem));
};
