// Original file: proto/worker.proto


export interface Cancel {
  'job'?: (string);
  'attempt'?: (number);
}

export interface Cancel__Output {
  'job': (string);
  'attempt': (number);
}
