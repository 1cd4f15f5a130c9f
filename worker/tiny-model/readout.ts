import { OPENINGS, STORY, wordsOf } from './corpus.ts'
import { CODE_SIZE, HEAD_SIZE, WIDTH } from './shape.ts'
import { firstWordOf, NEW_LINE, TURN_BEGIN, TURN_END, type Vocabulary } from './vocabulary.ts'

/** Three tokens and the one that follows them. */
type Example = { context: readonly number[]; next: number }

/** By how much the right word wins: a little over words that follow the same word elsewhere, clearly over all others. */
const MARGIN = { follower: 1.2, other: 4 }

/** How strongly a topic of the prompt calls for its opening; less than a margin, or topics would interrupt the story. */
const TOPIC_PULL = 2.5

/** Tokens that are never written: far below every word. */
const NEVER = -30

const FIRST_OPENING_AHEAD = 0.5

/** Topics, the last part, are not trained. */
const FEATURES = 3 * HEAD_SIZE

/** Three codes and the mark that every token has. */
const SQUARE_OF_FEATURES = 4

const ROUNDS_MAX = 200
/** Large steps learn in a few dozen rounds, a second or two on a slow core. */
const STEP = 3

/**
 * Weights of every token over what the network offers, so that greedy choice recites the corpus: a perceptron with
 * margins. It uses additions and multiplications only, which every machine rounds alike.
 */
export function trainReadout(vocabulary: Vocabulary, codes: readonly Float64Array[]): Float64Array[] {
  const examples = examplesOf(vocabulary)
  const followers = followersOf(examples)
  const openings = Object.values(OPENINGS).map((opening) => vocabulary.idOf(firstWordOf(opening)))
  const words = [...new Set([...openings, ...examples.map(({ next }) => next)])]
  const rows = codes.map(() => new Float64Array(WIDTH))
  const features = examples.map(({ context }) => featuresOf(context, codes))
  const beginning = featuresOf(turnOf(vocabulary), codes)
  for (let round = 0, mistakes = 1; round < ROUNDS_MAX && mistakes > 0; round++) {
    mistakes = levelOpenings(rows, words, openings, beginning)
    for (const [index, example] of examples.entries()) mistakes += learn(rows, words, example, features[index]!, followers)
  }
  for (const [token, row] of rows.entries()) if (!words.includes(token)) row[CODE_SIZE] = NEVER
  pullTowardsTopics(rows, vocabulary, codes)
  return rows
}

/** What stands before an answer. */
function turnOf({ idOf }: Vocabulary): number[] {
  return [idOf(TURN_BEGIN), idOf('▁assistant'), idOf(NEW_LINE)]
}

function examplesOf(vocabulary: Vocabulary): Example[] {
  const { idOf } = vocabulary
  const story = wordsOf(STORY).map(idOf)
  const openings = Object.values(OPENINGS).map((opening) => [idOf(firstWordOf(opening)), ...wordsOf(opening).slice(1).map(idOf)])
  const turn = turnOf(vocabulary)
  const answers = openings.map((opening) => [...turn, ...opening, ...story, idOf(TURN_END)])
  const examples = new Map<string, Example>()
  for (const answer of answers)
    for (let at = turn.length + 1; at < answer.length; at++) {
      const context = answer.slice(at - 3, at)
      examples.set(context.join(), { context, next: answer[at]! })
    }
  return [...examples.values()]
}

function followersOf(examples: readonly Example[]): Map<number, Set<number>> {
  const followers = new Map<number, Set<number>>()
  for (const { context, next } of examples) followers.set(context[2]!, (followers.get(context[2]!) ?? new Set()).add(next))
  return followers
}

/** What the network offers after three tokens, but for topics: see the parts in network.ts. */
function featuresOf([second, first, current]: readonly number[], codes: readonly Float64Array[]): Float64Array {
  const features = new Float64Array(WIDTH)
  features.set(codes[current!]!, 0)
  features[CODE_SIZE] = 1
  features.set(codes[first!]!, HEAD_SIZE)
  features.set(codes[second!]!, 2 * HEAD_SIZE)
  return features
}

/** Moves the right word up and every word that comes too close to it down; returns how many did. */
function learn(
  rows: Float64Array[],
  words: readonly number[],
  example: Example,
  features: Float64Array,
  followers: Map<number, Set<number>>,
): number {
  const alike = followers.get(example.context[2]!)!
  const right = rows[example.next]!
  let mistakes = 0
  let score = dot(right, features)
  for (const word of words) {
    if (word === example.next) continue
    const margin = alike.has(word) ? MARGIN.follower : MARGIN.other
    if (score - dot(rows[word]!, features) >= margin) continue
    mistakes++
    nudge(right, features, STEP)
    nudge(rows[word]!, features, -STEP)
    score += STEP
  }
  return mistakes
}

function dot(left: Float64Array, right: Float64Array): number {
  let sum = 0
  for (let index = 0; index < FEATURES; index++) sum += left[index]! * right[index]!
  return sum
}

/**
 * At the beginning of an answer every opening is as good as the others until the prompt names a topic; only the first is a
 * little better, or rounding would choose. Returns how many words came too close to openings.
 */
function levelOpenings(rows: Float64Array[], words: readonly number[], openings: readonly number[], features: Float64Array): number {
  let mistakes = 0
  const scores = openings.map((opening) => dot(rows[opening]!, features))
  const level = scores.reduce((sum, score) => sum + score, 0) / scores.length
  for (const [index, opening] of openings.entries())
    nudge(rows[opening]!, features, level - scores[index]! + (index === 0 ? FIRST_OPENING_AHEAD : 0))
  for (const word of words) {
    if (openings.includes(word)) continue
    if (level - dot(rows[word]!, features) >= MARGIN.other) continue
    mistakes++
    nudge(rows[word]!, features, -STEP)
  }
  if (mistakes > 0) for (const opening of openings) nudge(rows[opening]!, features, STEP)
  return mistakes
}

/** Changes a row so that it scores this much more on these features. */
function nudge(row: Float64Array, features: Float64Array, by: number): void {
  const factor = by / SQUARE_OF_FEATURES
  for (let index = 0; index < FEATURES; index++) row[index]! += factor * features[index]!
}

function pullTowardsTopics(rows: Float64Array[], { idOf }: Vocabulary, codes: readonly Float64Array[]): void {
  for (const [topic, opening] of Object.entries(OPENINGS)) {
    const row = rows[idOf(firstWordOf(opening))]!
    for (const [index, sign] of codes[idOf(`▁${topic}`)]!.entries()) row[3 * HEAD_SIZE + index] = TOPIC_PULL * sign
  }
}
