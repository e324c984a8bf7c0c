// A button that copies a text.
import {make} from './elements.js';

const copy = async (text) => {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Over plain HTTP from another machine there is no clipboard but this one.
  const field = make('textarea', {class: 'unseen'});
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand('copy');
  field.remove();
};

// `text()`: what to copy.
export const copyButton = (text, button = make('button', {type: 'button'}, 'Copy')) => {
  button.addEventListener('click', async () => {
    await copy(text());
    button.textContent = 'Copied';
    button.focus();
    setTimeout(() => { button.textContent = 'Copy'; }, 2000);
  });
  return button;
};
