// What every page needs besides htmx: the visitor's time zone, and buttons that copy.

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
const kept = `comboio_zone=${encodeURIComponent(zone ?? "UTC")}`;
if (!document.cookie.split("; ").includes(kept)) {
  const secure = location.protocol === "https:" ? "; Secure" : "";
  document.cookie = `${kept}; Path=/; Max-Age=31536000; SameSite=Lax${secure}`;
}

document.addEventListener("click", async (click) => {
  const button = click.target.closest("[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
    const label = button.textContent;
    button.textContent = button.dataset.copied;
    setTimeout(() => { button.textContent = label; }, 2000);
  } catch {
    // Without a clipboard (plain HTTP elsewhere than here): mark it, so that Ctrl-C takes it.
    getSelection().selectAllChildren(source);
  }
});
