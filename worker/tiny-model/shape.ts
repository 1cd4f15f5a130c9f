/** The sizes of the toy's network; network.ts says what flows through it. */
export const HEADS = 4
export const HEAD_SIZE = 32
export const WIDTH = HEADS * HEAD_SIZE
export const FEED_FORWARD = 32
export const ROPE_BASE = 10_000

/** The code of a token fills its part except for the two marks at the end. */
export const CODE_SIZE = HEAD_SIZE - 2
/** 1 for every token. */
export const ALWAYS = CODE_SIZE
/** 1 for words of topics, -1 for all others: the same square for both keeps every token equally long. */
export const TOPIC = CODE_SIZE + 1
