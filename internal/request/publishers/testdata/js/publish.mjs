// Publishes one request in each way that the CloudEvents SDK knows.
// Usage: node publish.mjs SERVER SUBJECT DEVICE
import { jetstream } from "@nats-io/jetstream";
import { connect, headers } from "@nats-io/transport-node";
import { CloudEvent, HTTP } from "cloudevents";

const [servers, subject, managedDeviceId] = process.argv.slice(2);
const nc = await connect({ servers });
const js = jetstream(nc);

async function publish({ headers: given, body }) {
  const h = headers();
  for (const [name, value] of Object.entries(given)) {
    h.set(name, value);
  }
  await js.publish(subject, body, { headers: h });
}

const event = (id, data, more) =>
  new CloudEvent({ id, source: "/js", type: "reset", data, ...more });
const data = { managedDeviceId, reason: "für >>>???" };
const bytes = new TextEncoder().encode(JSON.stringify(data));

await publish({ headers: {}, body: JSON.stringify({ ...data, id: "plain" }) });
await publish(HTTP.binary(event("binary", data)));
await publish(HTTP.binary(event("binary Gerät/7 50%", data, { subject: "50% of fleet locked" })));
await publish(HTTP.binary(event("binary bytes", bytes, { datacontenttype: "application/json" })));
await publish(HTTP.binary(event("binary text", JSON.stringify(data), { datacontenttype: "text/json" })));
await publish(HTTP.structured(event("structured", data)));
await publish(HTTP.structured(event("structured Gerät/7 50%", data, { dataschema: "https://example.com/#", sequence: "7" })));
await publish(HTTP.structured(event("structured bytes", bytes, { datacontenttype: "application/json" })));
await publish({ headers: {}, body: JSON.stringify(event("structured alone", data)) });
await publish({ headers: {}, body: event("structured string", data).toString() });

await nc.drain();
