/** What a worker tells the process that started it of each of its models. `writes`: it answers chats, and does not only read. */
export type ReadyModel = { name: string; isServed: boolean; why: string; writes: boolean }
