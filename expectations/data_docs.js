// What the pages of Great Expectations need beside plain HTML: "failed only" and "show more".
function showOnlyFailed(isOn) {
  for (const cell of document.querySelectorAll(".hide-succeeded-validation-target-child")) cell.parentElement.classList.toggle("hidden", isOn);
  for (const block of document.querySelectorAll(".hide-succeeded-validations-column-section-target-child")) {
    const section = block.parentElement.parentElement;
    section.classList.toggle("hidden", isOn);
    for (const link of document.querySelectorAll(`a[href$="#${section.id}"]`)) link.parentElement.classList.toggle("hidden", isOn);
  }
}
function showAllValidations() { showOnlyFailed(false); }
function hideSucceededValidations() { showOnlyFailed(true); }
document.addEventListener("click", (event) => {
  const button = event.target.closest(".btn");
  if (button) for (const other of button.parentElement.children) other.classList.toggle("active", other === button);
  const link = event.target.closest('[data-toggle="collapse"]');
  if (!link) return;
  event.preventDefault();
  document.getElementById(link.getAttribute("href").slice(1)).classList.toggle("show");
});
