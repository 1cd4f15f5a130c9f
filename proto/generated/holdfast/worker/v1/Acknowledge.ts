// Original file: proto/worker.proto


export interface Acknowledge {
  'job'?: (string);
  'attempt'?: (number);
}

export interface Acknowledge__Output {
  'job': (string);
  'attempt': (number);
}
