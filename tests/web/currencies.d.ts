// What the server makes of trio_ws/currencies.py at /currencies.js, for the check of the console's types.
export declare const EXPONENTS: Readonly<Record<string, number | undefined>>;
