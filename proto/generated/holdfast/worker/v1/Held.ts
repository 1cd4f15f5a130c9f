// Original file: proto/worker.proto


export interface Held {
  'job'?: (string);
  'attempt'?: (number);
}

export interface Held__Output {
  'job': (string);
  'attempt': (number);
}
