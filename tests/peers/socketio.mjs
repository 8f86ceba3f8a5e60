// socket.io-client and engine.io-client as people use them; obeys lines of JSON on stdin: {command, who, ...}.

import { createInterface } from "node:readline";
import { Socket } from "engine.io-client";
import { io } from "socket.io-client";

const load = value => value?.base64 === undefined ? value : Buffer.from(value.base64, "base64");
const dump = value => {
  if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) return { base64: Buffer.from(value).toString("base64") };
  if (Array.isArray(value)) return value.map(dump);
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, dump(v)]));
  return value;
};
const clients = {};

class Client {
  heard = [];
  awaited = null;

  hear(...what) {
    this.heard.push(dump(what));
    this.awaited?.();
  }

  async recv() {
    while (!this.heard.length) await new Promise(resolve => { this.awaited = resolve; });
    return this.heard.shift();
  }
}

const commands = {
  async connect({ who, url, options }) {
    const client = clients[who] = new Client();
    client.socket = io(url, { reconnection: false, forceNew: true, ...options });
    client.socket.onAny((...what) => client.hear(...what));
    client.socket.on("disconnect", reason => client.hear("disconnect", reason));
    await new Promise((resolve, reject) => client.socket.on("connect", resolve).on("connect_error", reject));
    return { id: client.socket.id, transport: client.socket.io.engine.transport.name };
  },
  async engine({ who, url, options }) {
    const client = clients[who] = new Client();
    client.socket = new Socket(url, options);
    client.socket.on("message", data => client.hear("message", data));
    client.socket.on("close", reason => client.hear("close", reason));
    await new Promise((resolve, reject) => client.socket.on("open", resolve).on("error", reject));
    return { id: client.socket.id, transport: client.socket.transport.name };
  },
  async upgraded({ who }) {
    const { engine } = clients[who].socket.io;
    while (engine.transport.name !== "websocket") await new Promise(resolve => engine.once("upgrade", resolve));
  },
  emit({ who, args }) { clients[who].socket.emit(...args.map(load)); },
  async ask({ who, args }) { return dump(await clients[who].socket.emitWithAck(...args.map(load))); },
  send({ who, data }) { clients[who].socket.send(load(data)); },
  recv({ who }) { return clients[who].recv(); },
  disconnect({ who }) { (clients[who].socket.disconnect ?? clients[who].socket.close).call(clients[who].socket); },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...args } = JSON.parse(line);
  let answer;
  try {
    answer = { ok: await commands[command](args) ?? null };
  } catch (error) {
    answer = { error: String(error?.message ?? error) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
process.exit(0);
