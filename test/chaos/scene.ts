import { readFileSync } from 'node:fs'
import { type Running, World } from '../support/world.ts'

/**
 * A world whose processes are started again whenever they end, as a service manager would. What ends without having been
 * killed by us is a surprise, and a surprise is a fault.
 */
export class Scene implements AsyncDisposable {
  readonly world: World
  readonly members: Member[] = []
  readonly surprises: string[] = []
  /** When the coordinator went down, by the wall clock: connections that break then break rightly. */
  readonly coordinatorDeathsMs: number[] = []
  /** Whether POST /api/jobs exists; without it jobs are handed in as detached streams. */
  hasJobsDoor = false
  readonly #past: Running[] = []
  #closing = false

  private constructor(world: World) {
    this.world = world
  }

  static async open(models: Record<string, string>): Promise<Scene> {
    const scene = new Scene(await World.open())
    // A freeze counts after three seconds instead of fifteen, or none would within a run.
    const settings = { HOLDFAST_DEAD_AFTER_S: '3', HOLDFAST_HEARTBEAT_S: '1' }
    await scene.#add('coordinator', settings, (env) => scene.world.coordinator(env))
    for (const [name, offered] of Object.entries(models))
      await scene.#add(name, { HOLDFAST_WORKER_NAME: name, HOLDFAST_MODELS: offered }, () => scene.world.worker(name, offered))
    const probe = await scene.world.request('POST', '/api/jobs', {})
    scene.hasJobsDoor = probe.status !== 404
    await probe.arrayBuffer()
    return scene
  }

  get coordinator(): Member {
    return this.#member('coordinator')
  }

  get workers(): Member[] {
    return this.members.filter((member) => member.name !== 'coordinator')
  }

  /** Those who served before count too: their last words explain what happened. */
  get logs(): { name: string; pid: number; output: string }[] {
    return this.#past.map(({ name, pid, output }) => ({ name, pid, output }))
  }

  /** Ends a member by force; its group too, unless only the process itself is meant. It comes back after the pause. */
  kill(member: Member, restartAfterMs: number, alone = false): void {
    member.killed = true
    member.restartAfterMs = restartAfterMs
    if (member === this.coordinator) this.coordinatorDeathsMs.push(Date.now())
    if (alone) process.kill(member.running.pid, 'SIGKILL')
    else member.running.kill()
  }

  postmasterPid(): number | undefined {
    try {
      const file = `${this.world.dir}/coordinator/postgres/postmaster.pid`
      const pid = Number(readFileSync(file, 'utf8').split('\n')[0])
      return readFileSync(`/proc/${pid}/comm`, 'utf8').trim() === 'postgres' ? pid : undefined
    } catch {
      // It is down already.
      return undefined
    }
  }

  /** Everybody is asked to stop; the folder stays until the scene is closed. */
  async stop(): Promise<void> {
    this.#closing = true
    for (const { running } of this.members.toReversed()) await running.stop()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
    await this.world.close()
  }

  async #add(name: string, env: Record<string, string>, start: (env: Record<string, string>) => Promise<Running>): Promise<void> {
    const member: Member = {
      name,
      env: { HOLDFAST_DATA_DIR: `${this.world.dir}/${name}`, ...env },
      running: await start(env),
      killed: false,
      frozen: false,
      restartAfterMs: 0,
    }
    this.members.push(member)
    this.#watch(member)
  }

  #watch(member: Member): void {
    const { running } = member
    this.#past.push(running)
    void running.exited.then(async () => {
      if (this.#closing) return
      if (!member.killed) {
        const { code, signal } = running.ended ?? {}
        const last = running.output.trim().split('\n').slice(-3).join(' ')
        this.surprises.push(`${member.name} (${running.pid}) ended by itself with ${signal ?? code}: ${last}`)
        if (member === this.coordinator) this.coordinatorDeathsMs.push(Date.now())
      }
      await new Promise((resolve) => setTimeout(resolve, member.killed ? member.restartAfterMs : 500))
      if (this.#closing) return
      member.killed = false
      member.running = this.world.start(member.name, [member === this.coordinator ? 'coordinator' : 'worker'], member.env)
      this.#watch(member)
    })
  }

  #member(name: string): Member {
    const found = this.members.find((member) => member.name === name)
    if (found === undefined) throw new Error(`nobody is called ${name}`)
    return found
  }
}

export type Member = {
  name: string
  env: Record<string, string>
  running: Running
  /** By us, so that its end is no surprise. */
  killed: boolean
  frozen: boolean
  restartAfterMs: number
}
