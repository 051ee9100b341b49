/* A dark page is printed as the light one: paper is white. */
(function () {
  "use strict";
  var page = document.documentElement.dataset, theme;
  window.addEventListener("beforeprint", function () { theme = page.theme; page.theme = "light"; });
  window.addEventListener("afterprint", function () { page.theme = theme; });
})();
