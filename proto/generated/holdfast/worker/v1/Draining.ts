// Original file: proto/worker.proto


export interface Draining {
}

export interface Draining__Output {
}
