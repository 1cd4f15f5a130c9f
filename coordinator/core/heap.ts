/**
 * A binary heap whose items know their place, so that one whose rank changed is moved and one that left is taken out in
 * O(log n). An item can stand in one heap only.
 */
export class Heap<T extends { heapIndex: number }> {
  readonly #items: T[] = []
  readonly #before: (a: T, b: T) => boolean

  constructor(before: (a: T, b: T) => boolean) {
    this.#before = before
  }

  get size(): number {
    return this.#items.length
  }

  first(): T | undefined {
    return this.#items[0]
  }

  add(item: T): void {
    item.heapIndex = this.#items.length
    this.#items.push(item)
    this.#rise(item)
  }

  /** Does nothing with an item that is not here. */
  remove(item: T): void {
    if (this.#items[item.heapIndex] !== item) return
    const last = this.#items.pop()
    if (last !== undefined && last !== item) {
      this.#put(last, item.heapIndex)
      this.moved(last)
    }
    item.heapIndex = -1
  }

  /** The item's rank changed; does nothing with an item that is not here. */
  moved(item: T): void {
    if (this.#items[item.heapIndex] !== item) return
    this.#rise(item)
    this.#sink(item)
  }

  [Symbol.iterator](): IterableIterator<T> {
    return this.#items[Symbol.iterator]()
  }

  #rise(item: T): void {
    while (item.heapIndex > 0) {
      const parent = this.#items[(item.heapIndex - 1) >>> 1] as T
      if (!this.#before(item, parent)) return
      this.#swap(item, parent)
    }
  }

  #sink(item: T): void {
    for (;;) {
      const left = this.#items[2 * item.heapIndex + 1]
      const right = this.#items[2 * item.heapIndex + 2]
      const child = right !== undefined && left !== undefined && this.#before(right, left) ? right : left
      if (child === undefined || !this.#before(child, item)) return
      this.#swap(item, child)
    }
  }

  #swap(a: T, b: T): void {
    const index = a.heapIndex
    this.#put(a, b.heapIndex)
    this.#put(b, index)
  }

  #put(item: T, index: number): void {
    this.#items[index] = item
    item.heapIndex = index
  }
}
