/**
 * What the toy model knows by heart. An answer opens with what it can say about a word of the prompt and goes on with the
 * story. No three words in a row are followed by different ones in two places, so that it does not walk in circles.
 */
export const OPENINGS: Readonly<Record<string, string>> = {
  queue: 'Queues keep order among everything that cannot run yet.',
  worker: 'Workers sit beside graphics cards and dial in by themselves.',
  coordinator: 'Coordinators decide who computes what, and write down why.',
  job: 'Jobs are promises: once accepted they will be finished or explained.',
  model: 'Models turn numbers into likely next numbers, nothing more.',
  token: 'Tokens are bits of text, often shorter than any word.',
  stream: 'Streams show an answer while somebody still thinks about its end.',
  heartbeat: 'Heartbeats tell that silence means trouble and not sleep.',
  prompt: 'Prompts carry questions, and sometimes whole books.',
  holdfast: 'Holdfast is a quiet keeper of slow machines.',
}

export const STORY = `This toy was built to try plumbing, so please do not trust its opinions.
Every request begins somewhere else. An application sends a few lines over HTTP and waits. First the coordinator
stores that job in PostgreSQL, because memory forgets when power fails. Then it looks around for free slots. If all are
busy, patience is cheaper than failure, and nobody gets turned away. The line moves forward, one place after another,
until some worker says that it has room. Now reading starts. Long prompts are read in shares, a hundred pieces at once,
while older answers keep flowing beside them. When reading is over, writing follows: single tokens, each chosen by chance
or by rule, travel through one open connection back to where they are wanted. There each of them becomes an event with a
number. Should your line break in between, simply come back and name the last number seen; what you missed is sent again,
but never twice. Things die, of course. A worker may lose its graphics card, or a careless foot may find the cable. Within
a second its jobs return to the front of their queue, and another machine takes over. It receives what had been
delivered so far, reads these words as though it wrote them, and continues with the very next letter. Readers notice
only a short pause. If the coordinator itself falls down, nothing accepted disappears, since every promise lies on disk.
After waking up, it counts what was running, asks workers which answers they still hold, and picks up loose ends. Even
databases restart sometimes. Running streams then flow on from memory, new work waits politely, and later all books are
balanced. Who pays attention to such details? People who must sleep at night do. They look at boards where lines of many
colours show how long strangers had to wait today. They find out why somebody waited, since no decision goes unrecorded.
Who asked, which model replied, how many tokens were spent, what went wrong and who fixed things: all that is kept for
years. Real models answer better than this little imitation can. Put a file with proper weights next to your worker, give
it a name, and speak with something larger. Until that day comes, I will happily repeat my only tale, word for word,
whenever anyone calls. That was everything known here. Goodbye.`

/** Tokens of a text of the corpus: words with the space before them, and punctuation by itself. */
export function wordsOf(text: string): string[] {
  return [...text.matchAll(/[A-Za-z]+|[.,:;?]/g)].map(([word]) => (/[A-Za-z]/.test(word) ? `▁${word}` : word))
}
