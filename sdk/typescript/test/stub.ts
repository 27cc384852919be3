/** A client of a server that gives these answers, one after another. */

import * as quorate from "../src/index.js";
import { type Json, Stub } from "./conformance/servers.js";

export async function withStub(
  answers: readonly Json[],
  work: (client: quorate.Client, stub: Stub) => Promise<void>,
  options: quorate.ClientOptions = {},
): Promise<void> {
  const stub = await Stub.start(answers);
  try {
    await work(new quorate.Client(stub.url, { discover: false, ...options }), stub);
  } finally {
    stub.close();
  }
}
