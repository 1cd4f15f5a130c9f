// Original file: proto/worker.proto


export interface Refused {
  'job'?: (string);
  'attempt'?: (number);
  'reason'?: (string);
}

export interface Refused__Output {
  'job': (string);
  'attempt': (number);
  'reason': (string);
}
