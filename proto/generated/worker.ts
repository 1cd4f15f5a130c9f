import type * as grpc from '@grpc/grpc-js';
import type { MessageTypeDefinition } from '@grpc/proto-loader';

import type { Acknowledge as _holdfast_worker_v1_Acknowledge, Acknowledge__Output as _holdfast_worker_v1_Acknowledge__Output } from './holdfast/worker/v1/Acknowledge.ts';
import type { Cancel as _holdfast_worker_v1_Cancel, Cancel__Output as _holdfast_worker_v1_Cancel__Output } from './holdfast/worker/v1/Cancel.ts';
import type { Chunk as _holdfast_worker_v1_Chunk, Chunk__Output as _holdfast_worker_v1_Chunk__Output } from './holdfast/worker/v1/Chunk.ts';
import type { Drain as _holdfast_worker_v1_Drain, Drain__Output as _holdfast_worker_v1_Drain__Output } from './holdfast/worker/v1/Drain.ts';
import type { Draining as _holdfast_worker_v1_Draining, Draining__Output as _holdfast_worker_v1_Draining__Output } from './holdfast/worker/v1/Draining.ts';
import type { Failed as _holdfast_worker_v1_Failed, Failed__Output as _holdfast_worker_v1_Failed__Output } from './holdfast/worker/v1/Failed.ts';
import type { Finished as _holdfast_worker_v1_Finished, Finished__Output as _holdfast_worker_v1_Finished__Output } from './holdfast/worker/v1/Finished.ts';
import type { FromCoordinator as _holdfast_worker_v1_FromCoordinator, FromCoordinator__Output as _holdfast_worker_v1_FromCoordinator__Output } from './holdfast/worker/v1/FromCoordinator.ts';
import type { FromWorker as _holdfast_worker_v1_FromWorker, FromWorker__Output as _holdfast_worker_v1_FromWorker__Output } from './holdfast/worker/v1/FromWorker.ts';
import type { Gpu as _holdfast_worker_v1_Gpu, Gpu__Output as _holdfast_worker_v1_Gpu__Output } from './holdfast/worker/v1/Gpu.ts';
import type { Heartbeat as _holdfast_worker_v1_Heartbeat, Heartbeat__Output as _holdfast_worker_v1_Heartbeat__Output } from './holdfast/worker/v1/Heartbeat.ts';
import type { Held as _holdfast_worker_v1_Held, Held__Output as _holdfast_worker_v1_Held__Output } from './holdfast/worker/v1/Held.ts';
import type { Hello as _holdfast_worker_v1_Hello, Hello__Output as _holdfast_worker_v1_Hello__Output } from './holdfast/worker/v1/Hello.ts';
import type { Host as _holdfast_worker_v1_Host, Host__Output as _holdfast_worker_v1_Host__Output } from './holdfast/worker/v1/Host.ts';
import type { LinkClient as _holdfast_worker_v1_LinkClient, LinkDefinition as _holdfast_worker_v1_LinkDefinition } from './holdfast/worker/v1/Link.ts';
import type { Model as _holdfast_worker_v1_Model, Model__Output as _holdfast_worker_v1_Model__Output } from './holdfast/worker/v1/Model.ts';
import type { Output as _holdfast_worker_v1_Output, Output__Output as _holdfast_worker_v1_Output__Output } from './holdfast/worker/v1/Output.ts';
import type { Received as _holdfast_worker_v1_Received, Received__Output as _holdfast_worker_v1_Received__Output } from './holdfast/worker/v1/Received.ts';
import type { Refused as _holdfast_worker_v1_Refused, Refused__Output as _holdfast_worker_v1_Refused__Output } from './holdfast/worker/v1/Refused.ts';
import type { Resume as _holdfast_worker_v1_Resume, Resume__Output as _holdfast_worker_v1_Resume__Output } from './holdfast/worker/v1/Resume.ts';
import type { Start as _holdfast_worker_v1_Start, Start__Output as _holdfast_worker_v1_Start__Output } from './holdfast/worker/v1/Start.ts';
import type { Starts as _holdfast_worker_v1_Starts, Starts__Output as _holdfast_worker_v1_Starts__Output } from './holdfast/worker/v1/Starts.ts';
import type { Welcome as _holdfast_worker_v1_Welcome, Welcome__Output as _holdfast_worker_v1_Welcome__Output } from './holdfast/worker/v1/Welcome.ts';

type SubtypeConstructor<Constructor extends new (...args: any) => any, Subtype> = {
  new(...args: ConstructorParameters<Constructor>): Subtype;
};

export interface ProtoGrpcType {
  holdfast: {
    worker: {
      v1: {
        Acknowledge: MessageTypeDefinition<_holdfast_worker_v1_Acknowledge, _holdfast_worker_v1_Acknowledge__Output>
        Cancel: MessageTypeDefinition<_holdfast_worker_v1_Cancel, _holdfast_worker_v1_Cancel__Output>
        Chunk: MessageTypeDefinition<_holdfast_worker_v1_Chunk, _holdfast_worker_v1_Chunk__Output>
        Drain: MessageTypeDefinition<_holdfast_worker_v1_Drain, _holdfast_worker_v1_Drain__Output>
        Draining: MessageTypeDefinition<_holdfast_worker_v1_Draining, _holdfast_worker_v1_Draining__Output>
        Failed: MessageTypeDefinition<_holdfast_worker_v1_Failed, _holdfast_worker_v1_Failed__Output>
        Finished: MessageTypeDefinition<_holdfast_worker_v1_Finished, _holdfast_worker_v1_Finished__Output>
        FromCoordinator: MessageTypeDefinition<_holdfast_worker_v1_FromCoordinator, _holdfast_worker_v1_FromCoordinator__Output>
        FromWorker: MessageTypeDefinition<_holdfast_worker_v1_FromWorker, _holdfast_worker_v1_FromWorker__Output>
        Gpu: MessageTypeDefinition<_holdfast_worker_v1_Gpu, _holdfast_worker_v1_Gpu__Output>
        Heartbeat: MessageTypeDefinition<_holdfast_worker_v1_Heartbeat, _holdfast_worker_v1_Heartbeat__Output>
        Held: MessageTypeDefinition<_holdfast_worker_v1_Held, _holdfast_worker_v1_Held__Output>
        Hello: MessageTypeDefinition<_holdfast_worker_v1_Hello, _holdfast_worker_v1_Hello__Output>
        Host: MessageTypeDefinition<_holdfast_worker_v1_Host, _holdfast_worker_v1_Host__Output>
        Link: SubtypeConstructor<typeof grpc.Client, _holdfast_worker_v1_LinkClient> & { service: _holdfast_worker_v1_LinkDefinition }
        Model: MessageTypeDefinition<_holdfast_worker_v1_Model, _holdfast_worker_v1_Model__Output>
        Output: MessageTypeDefinition<_holdfast_worker_v1_Output, _holdfast_worker_v1_Output__Output>
        Received: MessageTypeDefinition<_holdfast_worker_v1_Received, _holdfast_worker_v1_Received__Output>
        Refused: MessageTypeDefinition<_holdfast_worker_v1_Refused, _holdfast_worker_v1_Refused__Output>
        Resume: MessageTypeDefinition<_holdfast_worker_v1_Resume, _holdfast_worker_v1_Resume__Output>
        Start: MessageTypeDefinition<_holdfast_worker_v1_Start, _holdfast_worker_v1_Start__Output>
        Starts: MessageTypeDefinition<_holdfast_worker_v1_Starts, _holdfast_worker_v1_Starts__Output>
        Welcome: MessageTypeDefinition<_holdfast_worker_v1_Welcome, _holdfast_worker_v1_Welcome__Output>
      }
    }
  }
}

