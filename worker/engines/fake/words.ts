import { hash } from 'node:crypto'

/** The fake's only source of variety: words and numbers that depend on nothing but a start and a place. */
export class Chance {
  readonly #start: number

  constructor(seed: string) {
    this.#start = hash('sha256', seed, 'buffer').readUInt32LE(0)
  }

  /** Unsigned 32 bit. */
  at(place: number): number {
    return mix(this.#start + Math.imul(place, 0x9e37_79b9))
  }

  word(place: number): string {
    return WORDS[this.at(place) % WORDS.length] ?? 'word'
  }
}

const WORDS =
  'amber anchor apple arrow autumn basin beacon birch bridge candle canyon cedar chapel cinder cliff clover cobalt copper coral cotton crater crystal dawn delta desert ember fable falcon feather fern field flame forest fossil garden glacier granite grove harbor hazel heron hollow island ivory jasper juniper kettle lantern laurel lemon linen lotus maple marble meadow mirror morning mountain nectar north ocean olive onyx opal orchard otter pebble pepper pine planet plume prairie quartz quiet rain raven reef ribbon river saddle saffron sage sail sand shadow silver sky snow sparrow spruce stone storm summer thistle thunder timber topaz tulip valley velvet violet walnut water willow winter wool yarrow zephyr'.split(
    ' ',
  )

/** A finaliser that spreads neighbouring numbers over 32 bits. */
function mix(value: number): number {
  let x = value >>> 0
  x = Math.imul(x ^ (x >>> 16), 0x21f0_aaad)
  x = Math.imul(x ^ (x >>> 15), 0x735a_2d97)
  return (x ^ (x >>> 15)) >>> 0
}
