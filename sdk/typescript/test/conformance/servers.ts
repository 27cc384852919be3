/** What stands between a client and a cluster in some cases: a stub, a proxy. */

import { createServer, type IncomingMessage, type Server as HttpServer } from "node:http";
import {
  connect,
  createServer as createTcpServer,
  type AddressInfo,
  type Server as TcpServer,
  type Socket,
} from "node:net";

export type Json = Record<string, unknown>;

/** One request that the stub was sent. */
export interface Sent {
  readonly method: string;
  readonly path: string;
  readonly query: Record<string, string>;
  readonly headers: Record<string, string>;
  readonly body: string;
}

/** The bytes of a value as the cases write it. */
export function valueBytes(value: unknown): Uint8Array {
  if (typeof value === "string") return new TextEncoder().encode(value);
  const { base64, pattern, ...unknown } = value as { base64?: string; pattern?: number };
  if (Object.keys(unknown).length > 0) throw new Error(`not a value: ${JSON.stringify(value)}`);
  if (base64 !== undefined) return Uint8Array.from(Buffer.from(base64, "base64"));
  if (pattern === undefined) throw new Error(`not a value: ${JSON.stringify(value)}`);
  const bytes = new Uint8Array(pattern);
  for (let at = 0; at < pattern; at += 1) bytes[at] = at % 251;
  return bytes;
}

const ANSWER_FIELDS = new Set(["status", "headers", "body", "json", "problem", "missing_bytes", "delay_ms"]);

/** What clients ask to find nodes and ring: answered apart from the script. */
const LOOKS = new Set(["/cluster", "/ring/partitions", "/buckets"]);
const NONE: Json = { status: 404, problem: { type: "no_such_route", status: 404 } };

/**
 * Answers whatever is asked from a script, and `GET /cluster` from another; the last answer of each is
 * repeated.
 */
export class Stub {
  /** How often `GET /cluster` was asked. */
  looks = 0;
  #sent: Sent[] = [];
  #count = 0;
  readonly #server: HttpServer;
  readonly #timers = new Set<NodeJS.Timeout>();

  private constructor(answers: readonly Json[], looks: readonly Json[]) {
    for (const answer of [...answers, ...looks]) {
      const unknown = Object.keys(answer).filter((name) => !ANSWER_FIELDS.has(name));
      if (unknown.length > 0) throw new Error(`unknown fields in an answer: ${unknown}`);
    }
    this.#server = createServer((request, _response) => {
      void received(request).then((sent) => {
        let answer = NONE;
        if (looks.length > 0 && sent.path === "/cluster") {
          answer = looks[Math.min(this.looks, looks.length - 1)] ?? {};
          this.looks += 1;
        } else if (looks.length === 0 || !LOOKS.has(sent.path)) {
          answer = answers[Math.min(this.#count, answers.length - 1)] ?? {};
          this.#count += 1;
          this.#sent.push(sent);
        }
        const timer = setTimeout(
          () => {
            this.#timers.delete(timer);
            if (answer["status"] === undefined) request.socket.destroy();
            else request.socket.end(rendered(answer, new URL(this.url).host));
          },
          Number(answer["delay_ms"] ?? 0),
        );
        this.#timers.add(timer);
      });
    });
  }

  static async start(answers: readonly Json[], looks: readonly Json[] = []): Promise<Stub> {
    const stub = new Stub(answers, looks);
    await listening(stub.#server);
    return stub;
  }

  get url(): string {
    return urlOf(this.#server);
  }

  /** The requests since the last call. */
  take(): Sent[] {
    const sent = this.#sent;
    this.#sent = [];
    return sent;
  }

  close(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#server.close();
    this.#server.closeAllConnections();
  }
}

async function received(request: IncomingMessage): Promise<Sent> {
  const pieces: Buffer[] = [];
  for await (const piece of request) pieces.push(piece as Buffer);
  const [path = "", query = ""] = (request.url ?? "").split("?", 2);
  const headers = Object.fromEntries(
    Object.entries(request.headers).map(([name, text]) => [name, String(text)]),
  );
  return {
    method: request.method ?? "",
    path: decodeURIComponent(path),
    query: Object.fromEntries(new URLSearchParams(query)),
    headers,
    body: Buffer.concat(pieces).toString(),
  };
}

/** The bytes of an answer, in whose JSON `STUB` is this host: written by hand, as some must be wrong. */
function rendered(answer: Json, host: string): Buffer {
  const headers = { ...(answer["headers"] as Record<string, string> | undefined) };
  let body = Buffer.from(valueBytes(answer["body"] ?? ""));
  const problem = answer["problem"] as Json | undefined;
  if (problem !== undefined) {
    body = Buffer.from(JSON.stringify({ ...problem, type: `urn:quorate:problem:${problem["type"]}` }));
    headers["Content-Type"] = "application/problem+json";
  } else if (answer["json"] !== undefined) {
    body = Buffer.from(JSON.stringify(answer["json"]).replaceAll('"STUB"', JSON.stringify(host)));
  }
  const lines = [
    `HTTP/1.1 ${answer["status"]} Stub`,
    ...Object.entries(headers).map((pair) => pair.join(": ")),
  ];
  const length = body.length + Number(answer["missing_bytes"] ?? 0);
  if (answer["status"] !== 204) lines.push(`Content-Length: ${length}`);
  return Buffer.concat([Buffer.from([...lines, "Connection: close", "", ""].join("\r\n")), body]);
}

/** Passes bytes on to a node and back, but loses answers when told to. */
export class Proxy {
  /** How many answers are still to be lost. */
  toLose = 0;
  readonly #server: TcpServer;
  readonly #sockets = new Set<Socket>();

  private constructor(target: URL) {
    this.#server = createTcpServer((client) => {
      const node = connect(Number(target.port), target.hostname);
      for (const socket of [client, node]) {
        this.#sockets.add(socket);
        socket.on("close", () => this.#sockets.delete(socket));
        socket.on("error", () => {
          client.destroy();
          node.destroy();
        });
      }
      client.pipe(node);
      node.on("data", (piece) => {
        if (this.toLose > 0) {
          this.toLose -= 1;
          client.destroy();
          node.destroy();
        } else {
          client.write(piece);
        }
      });
      node.on("end", () => client.end());
    });
  }

  static async start(target: string): Promise<Proxy> {
    const proxy = new Proxy(new URL(target));
    await listening(proxy.#server);
    return proxy;
  }

  get url(): string {
    return urlOf(this.#server);
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }
}

async function listening(server: HttpServer | TcpServer): Promise<void> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
}

function urlOf(server: HttpServer | TcpServer): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}
