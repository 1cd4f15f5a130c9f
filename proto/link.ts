import { fileURLToPath } from 'node:url'
import {
  type ChannelOptions,
  type ClientDuplexStream,
  credentials,
  loadPackageDefinition,
  Metadata,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  status,
} from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import type { LinkClient } from './generated/holdfast/worker/v1/Link.ts'
import type { FromCoordinator, FromCoordinator__Output } from './generated/holdfast/worker/v1/FromCoordinator.ts'
import type { FromWorker, FromWorker__Output } from './generated/holdfast/worker/v1/FromWorker.ts'
import type { ProtoGrpcType } from './generated/worker.ts'

/** The only door to gRPC: both ends of the session of worker.proto. */

export type { FromCoordinator, FromWorker }
export type ToldByCoordinator = FromCoordinator__Output
export type ToldByWorker = FromWorker__Output
export type { Model__Output as ToldModel } from './generated/holdfast/worker/v1/Model.ts'
export type { Host__Output as ToldHost } from './generated/holdfast/worker/v1/Host.ts'
export type { Model as ModelMessage } from './generated/holdfast/worker/v1/Model.ts'
export type { Host as HostMessage } from './generated/holdfast/worker/v1/Host.ts'
export type { Chunk as ChunkMessage } from './generated/holdfast/worker/v1/Chunk.ts'
export type { Finished as FinishedMessage } from './generated/holdfast/worker/v1/Finished.ts'
export type { Output as OutputMessage } from './generated/holdfast/worker/v1/Output.ts'
export type { Failed as FailedMessage } from './generated/holdfast/worker/v1/Failed.ts'
export type { Start as StartMessage } from './generated/holdfast/worker/v1/Start.ts'
export type { Hello__Output as ToldHello } from './generated/holdfast/worker/v1/Hello.ts'

export const PROTOCOL_MAJOR = 1
export const PROTOCOL_MINOR = 4
/** It stands in headers, metrics and addresses. */
export const WORKER_NAME = /^[\p{L}\p{N}][\p{L}\p{N} ._:@/-]{0,127}$/u
export const WORKER_NAME_FORM = 'must be 1 to 128 letters, digits, spaces or . _ : @ / -, beginning with a letter or digit.'
/** From here on a worker understands Starts. */
export const STARTS_SINCE_MINOR = 4

/** One worker's session as the coordinator sees it. */
export type CoordinatorEnd = ServerDuplexStream<FromWorker__Output, FromCoordinator>
/** One session as the worker sees it. */
export type WorkerEnd = ClientDuplexStream<FromWorker, FromCoordinator__Output>

export type LinkServer = { port: number; close(): Promise<void> }

/**
 * Serves sessions until closed. `admit` looks at the token before a single message is read; a wrong one ends the call
 * with UNAUTHENTICATED.
 */
export async function serveLink(
  address: string,
  admit: (token: string | undefined) => boolean,
  onSession: (end: CoordinatorEnd, token: string | undefined) => void,
): Promise<LinkServer> {
  // The coordinator judges silence by heartbeats and its own dead time; this only finds what those cannot.
  const server = new Server({ ...LIMITS, 'grpc.keepalive_time_ms': 60_000, 'grpc.keepalive_timeout_ms': 20_000 })
  server.addService(service.holdfast.worker.v1.Link.service, {
    Session: (end: CoordinatorEnd) => {
      const token = bearerOf(end.metadata)
      if (admit(token)) onSession(end, token)
      else
        refuse(end, status.UNAUTHENTICATED, 'The worker token is missing or wrong: set HOLDFAST_WORKER_TOKEN to what the coordinator uses.')
    },
  })
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(address, ServerCredentials.createInsecure(), (error, bound) => (error ? reject(error) : resolve(bound)))
  })
  return {
    port,
    close: async () => {
      server.forceShutdown()
    },
  }
}

/** Ends a session with a status the other side can show to a person. */
export function refuse(end: CoordinatorEnd, code: number, details: string): void {
  end.emit('error', { code, details })
}

export const refusals = {
  protocol: status.FAILED_PRECONDITION,
  nameTaken: status.ALREADY_EXISTS,
  identityTaken: status.ALREADY_EXISTS,
  secondAddress: status.ABORTED,
  garbage: status.INVALID_ARGUMENT,
  unwanted: status.PERMISSION_DENIED,
}

/** Statuses after which dialling again with the same settings cannot help, and a person must change something. */
export function needsPerson(code: number | undefined): boolean {
  return (
    code === status.INVALID_ARGUMENT ||
    code === status.UNAUTHENTICATED ||
    code === status.PERMISSION_DENIED ||
    code === status.FAILED_PRECONDITION ||
    code === status.ALREADY_EXISTS
  )
}

/** The worker has a session with that coordinator already, by another of its addresses. */
export function isSecondAddress(code: number | undefined): boolean {
  return code === refusals.secondAddress
}

export type LinkDialler = { open(): WorkerEnd; close(): void }

/** One channel to one coordinator; every `open` is a new session on it. */
export function dialLink(address: string, token: string): LinkDialler {
  const client: LinkClient = new service.holdfast.worker.v1.Link(address, credentials.createInsecure(), LIMITS)
  const metadata = new Metadata()
  metadata.set('authorization', `Bearer ${token}`)
  return { open: () => client.Session(metadata), close: () => client.close() }
}

// A prompt may be as large as a request body; nothing larger is ever sent. Keepalive finds a peer whose host vanished
// without closing the connection; the fast first reconnect keeps a coordinator's restart short.
const LIMITS: ChannelOptions = {
  'grpc.max_receive_message_length': 64 * 1024 * 1024,
  'grpc.max_send_message_length': 64 * 1024 * 1024,
  'grpc.keepalive_time_ms': 5_000,
  'grpc.keepalive_timeout_ms': 5_000,
  'grpc.keepalive_permit_without_calls': 1,
  'grpc.initial_reconnect_backoff_ms': 50,
  'grpc.max_reconnect_backoff_ms': 1_000,
  'grpc.max_metadata_size': 16 * 1024,
}

const definition = loadSync(fileURLToPath(new URL('worker.proto', import.meta.url)), {
  keepCase: false,
  longs: Number,
  enums: String,
  defaults: true,
  arrays: true,
  oneofs: true,
})
const service = loadPackageDefinition(definition) as unknown as ProtoGrpcType

function bearerOf(metadata: Metadata): string | undefined {
  const header = metadata.get('authorization')[0]?.toString()
  return header?.startsWith('Bearer ') ? header.slice('Bearer '.length) : undefined
}
