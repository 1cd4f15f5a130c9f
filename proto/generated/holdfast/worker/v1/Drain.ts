// Original file: proto/worker.proto


export interface Drain {
}

export interface Drain__Output {
}
