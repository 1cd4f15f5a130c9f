/**
 * A Map for what comes and goes by the thousand. The table behind a JavaScript Map is replaced by a new one every few hundred entries,
 * and the old one, dead as it is, points to the new. Once the garbage collector has moved a single one of them to the old generation,
 * every table after it, and all that was ever in them, stays until the next full collection: requests of some milliseconds made
 * garbage that lived for a second, and collecting it was a third of what a busy worker did. Here whatever leaves takes its value along, and
 * only its empty place stays behind.
 */
export class FleetingMap<Key extends string, Value extends object> {
  readonly #places = new Map<Key, { value: Value | undefined }>()

  get size(): number {
    return this.#places.size
  }

  has(key: Key): boolean {
    return this.#places.has(key)
  }

  get(key: Key): Value | undefined {
    return this.#places.get(key)?.value
  }

  set(key: Key, value: Value): void {
    const place = this.#places.get(key)
    if (place === undefined) this.#places.set(key, { value })
    else place.value = value
  }

  /** False when it was not there. */
  delete(key: Key): boolean {
    const place = this.#places.get(key)
    if (place === undefined) return false
    place.value = undefined
    return this.#places.delete(key)
  }

  clear(): void {
    for (const place of this.#places.values()) place.value = undefined
    this.#places.clear()
  }

  keys(): Iterable<Key> {
    return this.#places.keys()
  }

  /** In the order in which they came; what leaves meanwhile is left out. */
  *values(): IterableIterator<Value> {
    for (const { value } of this.#places.values()) if (value !== undefined) yield value
  }
}
