// What a page owes everybody, as far as it can be computed: names of controls, unique ids, contrast, no scrolling sideways.

// Runs in the page; sentences about what is wrong.
const lookAround = () => {
  const wrong = [];
  const visible = (element) => element.checkVisibility({visibilityProperty: true}) && element.getClientRects().length > 0;
  const about = (element) => `<${element.localName}${element.id ? ` id=${element.id}` : ''}> "${(element.textContent || element.value || '').trim().slice(0, 30)}"`;
  for (const element of document.querySelectorAll('a[href], button, input, select, textarea, summary, progress, dialog, [role=region], [tabindex="0"]')) {
    if (!visible(element)) continue;
    const labelled = (element.getAttribute('aria-labelledby') ?? '').split(' ').map((id) => document.getElementById(id)?.textContent ?? '').join('');
    const name = element.getAttribute('aria-label') || labelled || [...element.labels ?? []].map((label) => label.textContent).join('') || element.textContent;
    if (name.trim() === '') wrong.push(`${about(element)} has no name`);
  }
  const ids = [...document.querySelectorAll('[id]')].map((element) => element.id);
  for (const id of new Set(ids)) if (ids.indexOf(id) !== ids.lastIndexOf(id)) wrong.push(`two elements have the id ${id}`);
  for (const element of document.querySelectorAll('[aria-labelledby], [aria-describedby]'))
    for (const attribute of ['aria-labelledby', 'aria-describedby'])
      for (const id of (element.getAttribute(attribute) ?? '').split(' ').filter(Boolean))
        if (!document.getElementById(id)) wrong.push(`${about(element)}: ${attribute} names ${id}, which is nowhere`);

  // Contrast of text, as WCAG computes it: 4.5, or 3 for large letters.
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const luminance = (colour) => {
    const [r, g, b] = colour.map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      layers.push(rgba(getComputedStyle(at).backgroundColor));
      if (layers.at(-1)[3] === 1) break;
    }
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (walker.currentNode.textContent.trim() === '' || seen.has(element) || element.closest('svg, noscript, option, .unseen, :disabled') || !visible(element)) continue;
    seen.add(element);
    const style = getComputedStyle(element);
    const background = behind(element);
    const [a, b] = [luminance(over(rgba(style.color), background)), luminance(background)];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize);
    if (contrast < (size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5))
      wrong.push(`${about(element)}: contrast ${contrast.toFixed(2)}`);
  }
  if (document.documentElement.scrollWidth > innerWidth) wrong.push(`the page is ${document.documentElement.scrollWidth} pixels wide`);
  return wrong;
};

export const basicsOf = (page) => page.evaluate(lookAround);
