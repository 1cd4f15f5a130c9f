import { expect, test } from 'vitest'
import type { Dispatcher } from '../coordinator/engine/dispatcher.ts'
import { Adoption } from '../coordinator/engine/adoption.ts'
import type { Db } from '../coordinator/store/db.ts'
import type { Lease } from '../coordinator/store/lease.ts'

test('jobs whose adoption broke off are taken up by the next look', async () => {
  const ID = '01900000-0000-7000-8000-000000000000'
  let broken = true
  let owned = false
  const recovered: string[] = []
  const db = {
    query: (text: string, values: unknown[]) => {
      const isLost = Array.isArray(values[1]) && values[1].includes(ID)
      if (text.includes('update jobs set owner')) {
        owned = true
        return Promise.resolve([row(ID)])
      }
      if (text.includes('not exists')) return Promise.resolve(owned && !isLost ? [] : [{ id: ID }])
      if (text.startsWith('select id')) return Promise.resolve(owned ? [{ id: ID, batch: null }] : [])
      if (broken && text.includes('job_progress')) return Promise.reject(new Error('PostgreSQL went away'))
      return Promise.resolve([])
    },
  } as unknown as Db
  const dispatcher = {
    find: (id: string) => (recovered.includes(id) ? {} : undefined),
    recover: (record: { id: string }) => recovered.push(record.id),
    cancel: () => false,
  } as unknown as Dispatcher
  const quiet = { info: () => {}, warn: () => {} }
  const adoption = new Adoption({ db, lease: { id: 'me' } as Lease, dispatcher, comingBatches: new Set(), log: quiet, addEvent: () => {} })
  await expect(adoption.adopt()).rejects.toThrow('PostgreSQL went away')
  broken = false
  await adoption.adopt()
  await adoption.adopt()
  expect(recovered).toEqual([ID])
})

function row(id: string): Record<string, unknown> {
  const texts = { id, status: 'queued', type: 'chat', team: 'default', model: 'm', priority: 'normal', trace_id: id }
  const numbers = { version: 1, cost: 1, strikes: 0, failures: 0, seed: 1, attempt: 0, tokens_before: 0, cost_micros: 0 }
  return { ...texts, ...numbers, created_at: new Date(0) }
}

test('a million that nobody owns are taken up page by page, and others are served between', async () => {
  const ids = Array.from({ length: 4_500 }, (_, index) => `01900000-0000-7000-8000-${String(index).padStart(12, '0')}`)
  const left = [...ids]
  const pages: number[] = []
  const db = {
    query: (text: string, values: unknown[]) => {
      if (text.includes('update jobs set owner')) return Promise.resolve((values[2] as string[]).map(row))
      if (!text.startsWith('select id from jobs where finished_at is null') || !text.includes('limit')) return Promise.resolve([])
      const page = left.splice(0, values[3] as number)
      pages.push(page.length)
      return Promise.resolve(page.map((id) => ({ id })))
    },
  } as unknown as Db
  const recovered: string[] = []
  let turns = 0
  const dispatcher = { find: () => undefined, recover: (record: { id: string }) => recovered.push(record.id) } as unknown as Dispatcher
  const told: string[] = []
  const log = { info: (text: string) => told.push(text), warn: () => {} }
  const others = setInterval(() => (turns += 1), 0)
  await new Adoption({ db, lease: { id: 'me' } as Lease, dispatcher, comingBatches: new Set(), log, addEvent: () => {} }).adopt()
  clearInterval(others)
  expect(recovered).toEqual(ids)
  expect(pages).toEqual([2_000, 2_000, 500])
  expect(turns).toBeGreaterThan(0)
  expect(told).toEqual(['Took up 4500 jobs that had no coordinator any more.'])
})
