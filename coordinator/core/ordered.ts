/**
 * A set kept in rising `order`, which is unique per item. Blocks of at most 1,024 items make every operation cost the
 * same with a thousand items as with a million: a binary search over blocks, one inside the block, one short move.
 * It is mutated in place: copying a queue of a million jobs per decision is not an option.
 */
export class Ordered<T extends { order: number }> {
  #blocks: T[][] = []
  #size = 0

  get size(): number {
    return this.#size
  }

  first(): T | undefined {
    return this.#blocks[0]?.[0]
  }

  add(item: T): void {
    this.#size += 1
    const last = this.#blocks.at(-1)
    if (last === undefined) {
      this.#blocks.push([item])
      return
    }
    // Jobs nearly always join at the end; starting a fresh block there keeps the full ones full.
    if (item.order > orderOfLast(last)) {
      if (last.length < BLOCK_MAX) last.push(item)
      else this.#blocks.push([item])
      return
    }
    this.#insertInside(item)
  }

  /** False when the item is not here. */
  remove(item: T): boolean {
    const blockIndex = this.#blockOf(item.order)
    const block = this.#blocks[blockIndex]
    if (block === undefined) return false
    const index = lowerBound(block, item.order)
    if (block[index] !== item) return false
    if (index === 0) block.shift()
    else block.splice(index, 1)
    if (block.length === 0) this.#blocks.splice(blockIndex, 1)
    this.#size -= 1
    return true
  }

  /** How many items stand before this order. */
  countBefore(order: number): number {
    const blockIndex = this.#blockOf(order)
    let count = 0
    for (let i = 0; i < blockIndex; i++) count += this.#blocks[i]?.length ?? 0
    const block = this.#blocks[blockIndex]
    return block === undefined ? count : count + lowerBound(block, order)
  }

  *[Symbol.iterator](): IterableIterator<T> {
    for (const block of this.#blocks) yield* block
  }

  #insertInside(item: T): void {
    const blockIndex = this.#blockOf(item.order)
    const block = this.#blocks[blockIndex] ?? []
    block.splice(lowerBound(block, item.order), 0, item)
    if (block.length > BLOCK_MAX) this.#blocks.splice(blockIndex, 1, block.slice(0, BLOCK_MAX / 2), block.slice(BLOCK_MAX / 2))
  }

  /** The first block whose last item is not before the order; the number of blocks when there is none. */
  #blockOf(order: number): number {
    let low = 0
    let high = this.#blocks.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (orderOfLast(this.#blocks[middle] as T[]) < order) low = middle + 1
      else high = middle
    }
    return low
  }
}

const BLOCK_MAX = 1_024

function orderOfLast(block: readonly { order: number }[]): number {
  return block[block.length - 1]?.order ?? Number.NEGATIVE_INFINITY
}

function lowerBound(block: readonly { order: number }[], order: number): number {
  let low = 0
  let high = block.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((block[middle]?.order ?? order) < order) low = middle + 1
    else high = middle
  }
  return low
}
