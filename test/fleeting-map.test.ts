import { spawnSync } from 'node:child_process'
import { expect, test } from 'vitest'
import { FleetingMap } from '../proto/fleeting-map.ts'

test('it holds what was put in and not taken out, in the order in which it came', () => {
  const map = new FleetingMap<string, { n: number }>()
  for (let n = 0; n < 1_000; n++) map.set(`k${n}`, { n })
  map.set('k7', { n: -7 })
  for (let n = 10; n < 1_000; n++) expect(map.delete(`k${n}`)).toBe(true)
  expect([map.delete('k10'), map.has('k10'), map.get('k10'), map.size]).toEqual([false, false, undefined, 10])
  expect([map.has('k7'), map.get('k7')]).toEqual([true, { n: -7 }])
  expect([...map.values()].map(({ n }) => n)).toEqual([0, 1, 2, 3, 4, 5, 6, -7, 8, 9])
  expect([...map.keys()].slice(0, 2)).toEqual(['k0', 'k1'])
  // What leaves meanwhile is left out, and what comes is seen.
  const seen: number[] = []
  for (const { n } of map.values()) {
    seen.push(n)
    if (n === 0) map.delete('k1')
    if (n === 9 && seen.length < 12) map.set('k10', { n: 10 })
  }
  expect(seen).toEqual([0, 2, 3, 4, 5, 6, -7, 8, 9, 10])
  map.clear()
  expect([map.size, [...map.values()]]).toEqual([0, []])
})

test('what has left it is garbage for the next collection of what is young, and not only for a full one', () => {
  /** Megabytes that the last ten collections of the young generation have freed, of some 13 each. */
  const freed = (made: string): number => {
    const script = `
      import { FleetingMap } from ${JSON.stringify(new URL('../proto/fleeting-map.ts', import.meta.url).href)}
      const map = ${made}
      const [keys, values] = [new Array(128).fill(''), new Array(128)]
      for (let n = 0; n < 400_000; n++) {
        const place = n % 128
        map.delete(keys[place])
        keys[place] = 'key ' + n + Math.random()
        values[place] = { list: new Array(100).fill(n), text: 'x' + n }
        map.set(keys[place], values[place])
      }`
    const flags = ['--no-parallel-scavenge', '--max-semi-space-size=16', '--no-warnings', '--trace-gc', '--input-type=module']
    const { stdout } = spawnSync(process.execPath, [...flags, '--eval', script], { encoding: 'utf8', maxBuffer: 16_000_000 })
    const collections = [...stdout.matchAll(/Scavenge ([\d.]+) \([\d.]+\) -> ([\d.]+) /g)].map(
      ([, before, after]) => Number(before) - Number(after),
    )
    expect(collections.length).toBeGreaterThan(20)
    return collections.slice(-10).reduce((sum, megabytes) => sum + megabytes, 0)
  }
  const [ours, theirs] = [freed('new FleetingMap()'), freed('new Map()')]
  expect(ours).toBeGreaterThan(80)
  // The language's own is beaten, or this class is not worth having.
  expect(theirs).toBeLessThan(ours / 2)
})
