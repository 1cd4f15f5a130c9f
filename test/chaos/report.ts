import { writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { quantile } from '../bench/measure.ts'
import type { FaultKind } from './judge.ts'
import { commandOf, type Options } from './options.ts'
import type { Outcome } from './run.ts'

/** One row of the table. */
export function rowOf(name: string, { visits, turnedUp, unanswered, killer }: Outcome): Record<string, string | number> {
  const count = (kind: FaultKind): string =>
    String(
      visits.filter(({ verdict }) => verdict.faults.some((fault) => fault.kind === kind)).length +
        turnedUp.filter(({ faults }) => faults.some((fault) => fault.kind === kind)).length,
    )
  const ended = (end: string): number => visits.filter(({ verdict }) => verdict.end === end).length
  const clean = visits.filter(({ verdict }) => verdict.faults.length === 0)
  // One that came in a single piece says nothing about the flow of a stream.
  const streams = visits.map(({ seen }) => seen).filter((seen) => seen.pieces > 1)
  const first = sorted(streams.map((seen) => seen.firstTokenMs))
  const silence = (broken: boolean): string =>
    Math.max(0, ...streams.filter((seen) => seen.brokenAtMs.length > 0 === broken).map((seen) => seen.longestSilenceMs)).toFixed(0)
  const again = visits.filter(({ stored }) => (stored?.attempts.length ?? 0) > 1)
  const total = sorted(visits.map(({ seen }) => seen.totalMs))
  return {
    run: name,
    jobs: String(visits.length),
    exact: String(clean.filter(({ verdict }) => verdict.end === 'answered').length),
    'cancelled as asked': `${ended('cancelled')}${ended('unseen') > 0 ? ` + ${ended('unseen')} unseen` : ''}`,
    lost: count('lost'),
    'duplicated or missing': count('garbled'),
    hung: count('hung'),
    'wrong told as right': count('wrong'),
    failed: count('failed'),
    cut: count('cut'),
    'worked for nobody': count('not-stopped'),
    'succeeded twice': count('twice'),
    odd: count('odd'),
    'refused, told': String(visits.reduce((sum, { seen }) => sum + seen.refusals, 0)),
    'diverged, told': String(visits.reduce((sum, { seen }) => sum + seen.diverged, 0)),
    'unknown: sent, turned up': `${unanswered}, ${turnedUp.length}`,
    'attempts > 1': `${again.length}, ${again.filter(({ seen }) => seen.caller.model === 'tiny').length} of them tiny`,
    kills: killer.summary,
    'first token p50 / p99 ms': pair(first),
    'total p50 / p99 ms': pair(total),
    'longest silence ms, connection kept / broken': `${silence(false)} / ${silence(true)}`,
  }
}

/** Says what is broken, job by job, and keeps the whole evidence in a file. True: nothing is. */
export function reportFaults(name: string, options: Options, outcome: Outcome): boolean {
  const broken = outcome.visits.filter(({ verdict }) => verdict.faults.length > 0)
  const late = outcome.turnedUp.filter(({ faults }) => faults.length > 0)
  if (broken.length === 0 && late.length === 0 && outcome.faults.length === 0) return true
  console.error(`\n${name}: broken.`)
  for (const fault of outcome.faults.slice(0, SHOWN)) console.error(`- ${fault}`)
  for (const { seen, verdict } of broken.slice(0, SHOWN))
    for (const { kind, detail } of verdict.faults)
      console.error(`- ${kind}: job ${seen.job || '–'}, caller ${seen.caller.number} (${seen.caller.way}, ${seen.caller.model}): ${detail}`)
  for (const { stored, faults } of late.slice(0, SHOWN))
    for (const { kind, detail } of faults) console.error(`- ${kind}: job ${stored.id}, whose request was never answered: ${detail}`)
  const file = path.join(os.tmpdir(), `holdfast-chaos-${options.seed}-${name.split(' ')[0]}.json`)
  const { events, killer, logs, faults } = outcome
  writeFileSync(
    file,
    JSON.stringify(
      { command: commandOf(options), faults, broken, late, diary: killer.diary, events: Object.fromEntries(events), logs },
      null,
      1,
    ),
  )
  console.error(`The evidence is in ${file}: these jobs, their events, what was killed when, and the last words of every process.`)
  return false
}

const SHOWN = 20

function sorted(values: (number | null)[]): number[] {
  return values.filter((value) => value !== null).sort((a, b) => a - b)
}

function pair(values: number[]): string {
  return `${quantile(values, 0.5).toFixed(0)} / ${quantile(values, 0.99).toFixed(0)}`
}
