export type Row = Record<string, unknown>
export type Show = (answer: unknown) => void

/** A list as columns, and how to go on where there is more. */
export function table(...columns: string[]): Show {
  return (answer) => {
    const { data = [], next } = answer as { data?: Row[]; next?: string | null }
    const rows = [columns, ...data.map((row) => columns.map((column) => cell(row[column])))]
    const widths = columns.map((_, index) => Math.max(...rows.map((row) => row[index]?.length ?? 0)))
    for (const row of rows)
      console.log(
        row
          .map((cell, index) => cell.padEnd(widths[index] ?? 0))
          .join('  ')
          .trimEnd(),
      )
    if (next) console.log(`More: --cursor ${next}`)
  }
}

export function showWorkers(answer: unknown): void {
  const { data = [], next } = answer as { data?: Row[]; next?: string | null }
  const models = (row: Row): string =>
    (row.models as Row[])
      .map((model) => `${String(model.name)} ${String(model.state)} ${String(model.busy)}/${String(model.slots)}`)
      .join(', ')
  table('name', 'state', 'reason', 'last_heartbeat_at', 'models')({ data: data.map((row) => ({ ...row, models: models(row) })), next })
}

export function showOne(answer: unknown): void {
  console.log(JSON.stringify(answer, null, 2))
}

function cell(value: unknown): string {
  if (value === null || value === undefined) return '-'
  return typeof value === 'string' ? value : JSON.stringify(value)
}
