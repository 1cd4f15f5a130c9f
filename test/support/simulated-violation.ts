/** An invariant that does not hold: the simulation has found a bug, in the product or in itself. */
export class Violation extends Error {
  override name = 'Violation'
}
