// A button in each column head sorts its table by that column: upwards, then downwards; what is missing comes last.
const number = /^[+±-]?[\d.]+( ?%| to [+-]?[\d.]+)?$/
const parse = text => parseFloat(text.replace(/^[+±]/, ''))

function read(cell) {
  const text = cell.dataset.sort ?? cell.textContent
  return text.replaceAll('−', '-').replaceAll('\u00a0', ' ').replaceAll(',', '').trim()
}

function sort(table, column) {
  const head = table.tHead.rows[0].cells[column]
  const down = head.ariaSort == 'ascending' ? -1 : 1
  const rows = [...table.tBodies[0].rows].map(row => [read(row.cells[column]), row])
  const missing = ([text]) => text == '–' || text == ''
  const present = rows.filter(row => !missing(row))
  const byNumber = (a, b) => parse(a) - parse(b)
  const byText = (a, b) => a.localeCompare(b, 'en', {numeric: true})
  const compare = present.every(([text]) => number.test(text)) ? byNumber : byText
  present.sort(([a], [b]) => down*compare(a, b))
  table.tBodies[0].append(...[...present, ...rows.filter(missing)].map(([, row]) => row))
  for (const other of table.tHead.rows[0].cells) other.removeAttribute('aria-sort')
  head.ariaSort = down == 1 ? 'ascending' : 'descending'
}

function addButton(table, head, column) {
  const button = document.createElement('button')
  button.type = 'button'
  button.append(...head.childNodes)
  button.onclick = () => sort(table, column)
  head.append(button)
}

for (const table of document.querySelectorAll('table'))
  [...table.tHead.rows[0].cells].forEach((head, column) => addButton(table, head, column))
