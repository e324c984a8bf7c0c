// Debian's Chromium through playwright-core; where it is not there or does not start, a test ends with the status that
// means skipped.
import {existsSync} from 'node:fs';

export const launched = async () => {
  const executablePath = ['/usr/bin/chromium', '/usr/bin/chromium-browser'].find(existsSync);
  let chromium;
  try {
    ({chromium} = await import('playwright-core'));
  } catch {
    // Said below.
  }
  if (!chromium || !executablePath) {
    console.log('skipped: scripts/setup-browser installs Chromium and playwright-core');
    process.exit(77);
  }
  try {
    return await chromium.launch({executablePath, args: ['--no-sandbox', '--disable-dev-shm-usage']});
  } catch (error) {
    console.log(`skipped: Chromium does not start here: ${error.message.split('\n')[0]}`);
    process.exit(77);
  }
};

export const failures = [];
export const expect = (what, holds) => {
  if (!holds) failures.push(what);
};
// The end of a test: what failed, and the exit status.
export const finish = (sentence) => {
  console.log(`${sentence}, ${failures.length} failures`);
  for (const failure of failures.slice(0, 40)) console.log(failure);
  process.exit(failures.length ? 1 : 0);
};
