// Original file: proto/worker.proto

import type * as grpc from '@grpc/grpc-js'
import type { MethodDefinition } from '@grpc/proto-loader'
import type { FromCoordinator as _holdfast_worker_v1_FromCoordinator, FromCoordinator__Output as _holdfast_worker_v1_FromCoordinator__Output } from '../../../holdfast/worker/v1/FromCoordinator.ts';
import type { FromWorker as _holdfast_worker_v1_FromWorker, FromWorker__Output as _holdfast_worker_v1_FromWorker__Output } from '../../../holdfast/worker/v1/FromWorker.ts';

export interface LinkClient extends grpc.Client {
  Session(metadata: grpc.Metadata, options?: grpc.CallOptions): grpc.ClientDuplexStream<_holdfast_worker_v1_FromWorker, _holdfast_worker_v1_FromCoordinator__Output>;
  Session(options?: grpc.CallOptions): grpc.ClientDuplexStream<_holdfast_worker_v1_FromWorker, _holdfast_worker_v1_FromCoordinator__Output>;
  session(metadata: grpc.Metadata, options?: grpc.CallOptions): grpc.ClientDuplexStream<_holdfast_worker_v1_FromWorker, _holdfast_worker_v1_FromCoordinator__Output>;
  session(options?: grpc.CallOptions): grpc.ClientDuplexStream<_holdfast_worker_v1_FromWorker, _holdfast_worker_v1_FromCoordinator__Output>;
  
}

export interface LinkHandlers extends grpc.UntypedServiceImplementation {
  Session: grpc.handleBidiStreamingCall<_holdfast_worker_v1_FromWorker__Output, _holdfast_worker_v1_FromCoordinator>;
  
}

export interface LinkDefinition extends grpc.ServiceDefinition {
  Session: MethodDefinition<_holdfast_worker_v1_FromWorker, _holdfast_worker_v1_FromCoordinator, _holdfast_worker_v1_FromWorker__Output, _holdfast_worker_v1_FromCoordinator__Output>
}
