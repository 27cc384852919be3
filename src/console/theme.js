// Runs before the first paint, so that a chosen scheme does not flash.
{
  let theme = null;
  try {
    theme = localStorage.getItem("theme");
  } catch {
    // Storage may be forbidden; then the system's scheme is used.
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
}
