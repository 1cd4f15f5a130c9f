// Original file: proto/worker.proto


export interface Start {
  'job'?: (string);
  'attempt'?: (number);
  'model'?: (string);
  'request'?: (string);
  'continuation'?: (number)[];
}

export interface Start__Output {
  'job': (string);
  'attempt': (number);
  'model': (string);
  'request': (string);
  'continuation': (number)[];
}
