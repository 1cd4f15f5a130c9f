// Original file: proto/worker.proto


export interface Resume {
  'job'?: (string);
  'attempt'?: (number);
  'first'?: (number);
}

export interface Resume__Output {
  'job': (string);
  'attempt': (number);
  'first': (number);
}
