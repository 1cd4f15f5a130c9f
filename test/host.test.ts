import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, expect, test } from 'vitest'
import { type GpuReading, NvidiaSmi, readGpus } from '../worker/gpus.ts'
import { HostTelemetry } from '../worker/host.ts'

/** What a worker says of its host, beside a stand-in for the program of NVIDIA's driver. */

const dir = mkdtempSync(path.join(os.tmpdir(), 'holdfast-host-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

test('two GPUs are told with their figures, and what one does not measure is 0', async () => {
  const program = standIn(
    'two',
    `case "$*" in
       "--query-gpu=name,utilization.gpu,memory.total,memory.used,temperature.gpu,power.draw --format=csv,noheader,nounits") ;;
       *) echo "asked for $*"; exit 2 ;;
     esac
     echo 'NVIDIA H200, 37, 143771, 1024, 41, 118.55'
     echo 'NVIDIA A100, Golden Edition, [N/A], 40960, 0, [Not Supported], '`,
  )
  const { gpus, problem } = await new NvidiaSmi(program).read()
  expect(problem).toBeNull()
  expect(gpus).toEqual([
    {
      name: 'NVIDIA H200',
      utilizationRatio: 0.37,
      memoryBytes: 143_771 * MIB,
      memoryUsedBytes: 1_024 * MIB,
      temperatureCelsius: 41,
      powerWatts: 118.55,
    },
    {
      name: 'NVIDIA A100, Golden Edition',
      utilizationRatio: 0,
      memoryBytes: 40_960 * MIB,
      memoryUsedBytes: 0,
      temperatureCelsius: 0,
      powerWatts: 0,
    },
  ])
})

test('an answer that is none is told, word for word, and no figure is guessed', () => {
  for (const said of [
    'No devices were found\n',
    'NVIDIA H200, 37\n',
    'NVIDIA H200, 37 %, 143771 MiB, 1024 MiB, 41, 118 W\n',
    ', 1, 2, 3, 4, 5\n',
  ])
    expect(readGpus(said)).toEqual({ gpus: [], problem: `nvidia-smi said "${said.trim()}", which is not understood` })
})

test('what the program complains of is told', async () => {
  const broken = standIn('broken', 'echo "NVIDIA-SMI has failed because it could not talk to the driver."; exit 9')
  expect(await new NvidiaSmi(broken).read()).toEqual({
    gpus: [],
    problem: 'nvidia-smi failed: NVIDIA-SMI has failed because it could not talk to the driver.',
  })
})

test('a program that cannot be started at the moment, such as one that is being replaced, is a problem like another', async () => {
  const program = standIn('replaced', 'exit 0')
  const writing = openSync(program, 'r+')
  expect(await new NvidiaSmi(program).read()).toEqual({
    gpus: [],
    problem: expect.stringContaining('nvidia-smi failed: spawn ETXTBSY') as string,
  })
  closeSync(writing)
  expect((await new NvidiaSmi(program).read()).problem).toBe('nvidia-smi names no GPU')
})

test('a host without the program is asked once and is no problem; where it has no GPU yet, it is asked again', async () => {
  const missing = new NvidiaSmi(path.join(dir, 'missing'))
  expect(await missing.read()).toEqual({ gpus: [], problem: null })
  standIn('missing', 'echo "NVIDIA H200, 1, 2, 3, 4, 5"')
  expect(await missing.read()).toEqual({ gpus: [], problem: null })

  const late = path.join(dir, 'late.txt')
  writeFileSync(late, '')
  const smi = new NvidiaSmi(standIn('late', `cat ${late}`))
  expect(await smi.read()).toEqual({ gpus: [], problem: 'nvidia-smi names no GPU' })
  writeFileSync(late, 'NVIDIA H200, 1, 2, 3, 4, 5\n')
  expect(await smi.read()).toMatchObject({ gpus: [{ name: 'NVIDIA H200' }], problem: null })
})

test('one that hangs is asked by one process at a time, is ended, and is asked again', async () => {
  const { program, pids } = hanging('hanging')
  const patient = new NvidiaSmi(program, 3_000)
  const first = patient.read()
  await until('it runs', () => pids().length === 1)
  const silent = { gpus: [], problem: 'nvidia-smi does not answer' }
  expect(await Promise.all([patient.read(), patient.read(), patient.read()])).toEqual([silent, silent, silent])
  expect(await first).toEqual(silent)
  expect(pids()).toHaveLength(1)

  const hasty = new NvidiaSmi(program, 50)
  expect(await hasty.read()).toEqual(silent)
  expect(await hasty.read()).toEqual(silent)
  await until('none is left', () => pids().every((pid) => !existsSync(`/proc/${pid}`)))
})

test('a GPU that never answers hides neither the load nor the memory of the host', async () => {
  const host = new HostTelemetry(
    () => {},
    () => new Promise(() => {}),
    5,
  )
  const seen = new Set([host.latest()])
  host.start()
  await until('figures again and again', () => seen.add(host.latest()).size > 5 && host.latest().cpuRatio !== undefined)
  host.stop()
  expect(host.latest().memoryUsedBytes).toBeGreaterThan(0)
  expect(host.latest().gpus).toEqual([])
})

test('a problem is told when it appears and when it changes, not each time it is met', async () => {
  const told: string[] = []
  const say = (problem: string | null): GpuReading => ({ gpus: [], problem })
  const answers = [say('gone'), say('gone'), say('broken'), say('broken'), say(null), say('broken')]
  let asked = 0
  const host = new HostTelemetry(
    (message) => told.push(message),
    async () => answers[asked++] ?? say('broken'),
    1,
  )
  host.start()
  await until('all were given, and more', () => asked > answers.length + 2)
  host.stop()
  expect(told).toEqual(['gone', 'broken', 'broken'].map((problem) => `The GPUs could not be measured: ${problem}`))
})

test.skipIf(process.platform !== 'linux')('on Linux no program is started for a figure but nvidia-smi, found on the PATH', () => {
  const bin = mkdtempSync(path.join(dir, 'bin-'))
  const started = path.join(bin, 'started')
  for (const name of ['cat', 'grep', 'lspci', 'dmidecode', 'nvidia-smi'])
    standIn(path.join(path.basename(bin), name), `echo ${name} >>${started}; echo 'NVIDIA H200, 1, 2, 3, 4, 5'`)
  const look = `
    const { HostTelemetry } = await import(${JSON.stringify(new URL('../worker/host.ts', import.meta.url))})
    const host = new HostTelemetry(console.error, undefined, 50)
    host.start()
    while (host.latest().cpuRatio === undefined || host.latest().gpus.length === 0) await new Promise((resolve) => setTimeout(resolve, 5))
    host.stop()
    console.log(JSON.stringify(host.latest()))`
  const said = execFileSync(process.execPath, ['--input-type=module', '-e', look], { env: { PATH: bin }, encoding: 'utf8' })
  expect(JSON.parse(said)).toMatchObject({
    gpus: [{ name: 'NVIDIA H200', utilizationRatio: 0.01 }],
    memoryUsedBytes: expect.any(Number) as number,
  })
  expect(new Set(readFileSync(started, 'utf8').trim().split('\n'))).toEqual(new Set(['nvidia-smi']))
})

const OWN_MOUNTS = 'exec unshare --mount "$@"'
// A namespace of its own may have devices that the host lacks; without the right to make one, the test has nothing to look at.
const mayMount = spawnSync('sh', ['-c', OWN_MOUNTS, 'sh', 'true']).status === 0

test.skipIf(!mayMount).each([
  ['', 1],
  ['?gpu_layers=0', 0],
])('a model that runs on the CPU of a host with a GPU says so as a warning, unless that was meant (tiny%s)', async (options, warnings) => {
  const output = await startedBesideGpu(`tiny=builtin:tiny${options}`)
  expect(output).toContain('on 1 CPU thread')
  expect(output.match(/"level":40,.*it runs on the CPU: this host may have a GPU/g) ?? []).toHaveLength(warnings)
})

/** What a worker logs until its model is ready, on a host that has the device of a GPU and no driver for it. */
async function startedBesideGpu(models: string): Promise<string> {
  const env = {
    PATH: process.env.PATH,
    HOLDFAST_DATA_DIR: path.join(dir, 'data'),
    HOLDFAST_MODELS: models,
    HOLDFAST_WORKER_TOKEN: 'x'.repeat(16),
  }
  const worker = spawn('sh', ['-c', OWN_MOUNTS, 'sh', 'sh', '-c', DEVICES_WITH_GPU, path.join(dir, 'dev')], {
    cwd: fileURLToPath(new URL('..', import.meta.url)),
    env: { ...env, HOLDFAST_COORDINATOR: '127.0.0.1:1' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  for (const stream of [worker.stdout, worker.stderr]) stream.on('data', (data: Buffer) => (output += data.toString()))
  const ended = once(worker, 'exit')
  try {
    await until('its model is ready', () => output.includes('model tiny is ready') || worker.exitCode !== null)
  } finally {
    worker.kill('SIGTERM')
    await ended
  }
  return output
}

const DEVICES_WITH_GPU = `set -e
  mkdir -p "$0" && mount -t tmpfs tmpfs "$0"
  for name in null zero random urandom; do touch "$0/$name"; mount --bind "/dev/$name" "$0/$name"; done
  mkdir "$0/shm" && mount --bind /dev/shm "$0/shm"
  touch "$0/kfd"
  mount --move "$0" /dev
  exec coordinator/holdfast worker`

const MIB = 1024 * 1024

function standIn(name: string, script: string): string {
  const file = path.join(dir, name)
  writeFileSync(file, `#!/bin/sh\n${script}\n`, { mode: 0o755 })
  return file
}

/** Writes down its number each time it is started, and says nothing ever. SIGTERM it does not hear. */
function hanging(name: string): { program: string; pids: () => string[] } {
  const list = path.join(dir, `${name}.pids`)
  const program = standIn(name, `trap '' TERM; echo $$ >>${list}; exec sleep 600`)
  return { program, pids: () => (existsSync(list) ? readFileSync(list, 'utf8').trim().split('\n') : []) }
}

async function until(what: string, probe: () => boolean): Promise<void> {
  for (let tries = 0; !probe(); tries++) {
    if (tries > 10_000) throw new Error(`never came: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
