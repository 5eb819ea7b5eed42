package build

// What a recipe may cost, together with the files that it includes. It is far
// more than recipes need, so that one that grows without end is told soon, and
// costs little memory and time until then.
const (
	// bytes of an instruction, and of a word when variables are replaced: Linux has
	// no longer argument of a program
	maxLine         = 128 << 10
	maxRecipe       = 1 << 20 // bytes of one file
	maxRecipes      = 4 << 20 // bytes of all files, those that are included twice twice
	maxIncludes     = 16      // files in each other
	maxIncluded     = 256     // files
	maxInstructions = 4096
	maxWords        = 4096     // of an instruction
	maxVariables    = 1024     // ARG, or ENV, of a stage
	maxEvaluated    = 64 << 20 // bytes of all that variables were replaced by, of environments and words
	maxRequests     = 512      // ports, parameters, volumes, and what is asked for of the host
	maxTextLines    = 10000    // of a Containerfile, from its first << on
	maxTriggers     = 256      // ONBUILD of an image
	maxPattern      = 1024     // bytes of a parameter's pattern
	maxRendered     = 64 << 20 // bytes of all files that one RENDER changes
	maxFaults       = 100      // told at once
)

// wordCost is what a word, or a variable of an environment, costs besides its
// bytes.
const wordCost = 64
