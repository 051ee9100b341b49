/* What the laboratories say, in Chinese. */
window.houseLabs.words = {};
