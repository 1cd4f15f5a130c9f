/** The sizes of the toy's network; network.ts says what flows through it. */
export const HEADS = 3
/** All heads look at the same keys and values: a third of the state, and of the time to read it. */
export const KEY_VALUE_HEADS = 1
export const HEAD_SIZE = 32
/** A part for the token itself, and one for each head. */
export const WIDTH = (1 + HEADS) * HEAD_SIZE
export const FEED_FORWARD = 32
export const ROPE_BASE = 10_000

/** The code of a token fills its part except for the two marks at the end. */
export const CODE_SIZE = HEAD_SIZE - 2
/** 1 for every token. */
export const ALWAYS = CODE_SIZE
/** 1 for words of topics, -1 for all others: the same square for both keeps every token equally long. */
export const TOPIC = CODE_SIZE + 1
