// Original file: proto/worker.proto


export interface Welcome {
  'protocolMajor'?: (number);
  'protocolMinor'?: (number);
  'coordinator'?: (string);
  'heartbeatIntervalMs'?: (number);
  'deadAfterMs'?: (number);
}

export interface Welcome__Output {
  'protocolMajor': (number);
  'protocolMinor': (number);
  'coordinator': (string);
  'heartbeatIntervalMs': (number);
  'deadAfterMs': (number);
}
