// Drives the real `ai` package against the fake model: `node vercel_ai.mjs DIALECT URL`.
import { trace, SpanStatusCode } from '@opentelemetry/api';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-proto';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { BatchSpanProcessor, NodeTracerProvider } from '@opentelemetry/sdk-trace-node';
import { OpenTelemetry } from '@ai-sdk/otel';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAI as createOpenAI5 } from 'openai2';
import * as ai from 'ai';
import * as ai5 from 'ai5';
import { z } from 'zod';

const [dialect, url] = process.argv.slice(2);
const conversations = JSON.parse(process.env.CONVERSATIONS);

const provider = new NodeTracerProvider({
  resource: resourceFromAttributes({ 'service.name': 'shop-support', 'service.version': '3.2.0', 'deployment.environment.name': 'production' }),
  spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter({ url: `${url}/v1/traces` }))],
});
provider.register();
if (dialect === 'vercel_ai') ai.registerTelemetry(new OpenTelemetry());

const sdk = dialect === 'vercel_ai' ? ai : ai5;
const openai = (dialect === 'vercel_ai' ? createOpenAI : createOpenAI5)({ baseURL: `${url}/v1`, apiKey: 'none' });

const tools = {
  find_orders: sdk.tool({
    description: 'Look up the orders of the customer.',
    inputSchema: z.object({ query: z.string(), limit: z.number() }),
    execute: async ({ query, limit }) => ({ rows: [{ order: 4711, state: 'sent', for: query }], limit }),
  }),
  make_refund: sdk.tool({
    description: 'Pay the price of an order back.',
    inputSchema: z.object({ query: z.string(), limit: z.number() }),
    execute: async ({ limit }) => { throw new Error(`refunds above ${limit} need the approval of a person`); },
  }),
};

async function answer(one) {
  const metadata = { sessionId: one.session_id, userId: one.user_id, tags: one.tags, ...one.metadata };
  const telemetry = { isEnabled: true, functionId: 'support', metadata };
  const settings = sdk === ai ? { telemetry } : { experimental_telemetry: telemetry };
  await sdk.embed({ model: openai.textEmbeddingModel('text-embedding-3-small'), value: one.question, ...settings });
  const prompt = { model: openai.chat('gpt-4o'), [sdk === ai ? 'instructions' : 'system']: one.system, prompt: one.question };
  await sdk.generateText({ ...prompt, tools, stopWhen: sdk.stepCountIs ? sdk.stepCountIs(3) : sdk.isStepCount(3), ...settings });
  const streamed = sdk.streamText({ ...prompt, ...settings });
  for await (const _ of streamed.textStream);
}

const tracer = trace.getTracer('shop');
for (const one of conversations) {
  await tracer.startActiveSpan('POST /support', { attributes: { 'http.request.method': 'POST', 'session.id': one.session_id, 'user.id': one.user_id } }, async (span) => {
    try {
      await answer(one);
    } catch (error) {
      span.recordException(error);
      span.setStatus({ code: SpanStatusCode.ERROR, message: error.message });
    }
    span.end();
  });
}
await provider.forceFlush();
await provider.shutdown();
