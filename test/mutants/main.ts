import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { MUTANTS, type Mutant } from './list.ts'

/**
 * `npm run mutants [-- part of a bug's name]`: plants each bug in a copy of the project and runs the tests that should
 * notice. A bug that survives is a hole in the suite and fails the run.
 */
const root = fileURLToPath(new URL('../..', import.meta.url))
const wanted = MUTANTS.filter((mutant) => mutant.bug.includes(process.argv[2] ?? ''))
const copy = mkdtempSync(path.join(os.tmpdir(), 'holdfast-mutants-'))
const files = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], { cwd: root, encoding: 'utf8' })
  .trim()
  .split('\n')
for (const file of files) cpSync(path.join(root, file), path.join(copy, file))
symlinkSync(path.join(root, 'node_modules'), path.join(copy, 'node_modules'))

let survived = 0
for (const mutant of wanted) {
  const verdict = plant(mutant)
  if (verdict !== 'killed') survived += 1
  console.log(`${verdict === 'killed' ? 'killed  ' : 'SURVIVED'}  ${mutant.bug}${verdict === 'killed' ? '' : ` (${verdict})`}`)
}
rmSync(copy, { recursive: true, force: true })
console.log(`${wanted.length - survived} passed, ${survived} failed`)
process.exit(survived === 0 ? 0 : 1)

function plant(mutant: Mutant): string {
  const file = path.join(copy, mutant.file)
  const source = readFileSync(file, 'utf8')
  const places = source.split(mutant.find).length - 1
  if (places !== 1) return `its place occurs ${places} times in ${mutant.file}`
  writeFileSync(
    file,
    source.replace(mutant.find, () => mutant.replace),
  )
  const args = [
    'run',
    ...mutant.tests.map((test) => `test/${test}.test.ts`),
    '--bail=1',
    '--reporter=dot',
    ...(mutant.only === undefined ? [] : ['-t', mutant.only]),
  ]
  const run = spawnSync(path.join(root, 'node_modules/.bin/vitest'), args, { cwd: copy, encoding: 'utf8', timeout: 300_000 })
  writeFileSync(file, source)
  // A run that never got to a failing test (a syntax error in the mutant, say) proves nothing; an error that nobody heard does.
  return run.status !== 0 && /Tests .*\d+ failed|Unhandled Errors/.test(stripColours(`${run.stdout}${run.stderr}`))
    ? 'killed'
    : run.status === 0
      ? 'all tests passed'
      : 'no test failed, the run broke'
}

function stripColours(text: string): string {
  // oxlint-disable-next-line no-control-regex -- the escape character is what colours begin with
  return text.replace(/\u001b\[[0-9;]*m/g, '')
}
